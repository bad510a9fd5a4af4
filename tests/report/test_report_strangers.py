"""The report of a sweep that came from elsewhere: what its files say is data, and lies in its folder."""

import csv
import json
import os
import struct
import zlib

import pytest
from PIL import Image

from dit.report import write, write_report
from dit.report.__main__ import main
from dit.report.lines import against_key
from dit.report.points import trained
from dit.report.read import read_sweep
from tests.metrics.sweeps import manifest, preview, product, score_row, scores, sweep

CHOICES = product(diffusion=["a", "b"])


def small(folder, **of):
    """Two trials of train.py, without pictures, which take time to draw."""
    folder = sweep(folder, CHOICES, lambda _: [0.5, 0.4], **of)
    for file in folder.glob("*/previews/*"):
        file.unlink()
    return folder


def remarks(folder):
    found = read_sweep(folder)
    return [*found.remarks, *(f"#{trial.number}: {remark}" for trial in found.trials for remark in trial.remarks)]


def test_a_report_replaces_the_links_it_finds(tmp_path):
    folder, outside = small(tmp_path / "s"), tmp_path / "outside"
    outside.mkdir()
    mine = outside / "mine"
    mine.write_text("mine")
    names = [f"report.{suffix}" for suffix in ("html", "md", "csv")]
    for name in [*names, *(f".{name}.tmp" for name in names)]:
        (folder / name).symlink_to(mine)
    (folder / "report").symlink_to(outside)
    write_report(folder)
    assert {file.name: file.read_text() for file in outside.iterdir()} == {"mine": "mine"}
    assert not any((folder / name).is_symlink() for name in [*names, "report"])
    figure = folder / "report" / "key_val_loss.png"
    figure.unlink()
    figure.symlink_to(mine)
    write_report(folder)
    assert mine.read_text() == "mine"
    assert not figure.is_symlink()
    with Image.open(figure):
        pass


def test_wandb_does_not_write_through_a_link(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, outside = small(tmp_path / "s"), tmp_path / "outside"
    outside.mkdir()
    (folder / "wandb").symlink_to(outside)
    assert main([str(folder), "--wandb", "x"]) == 1
    assert "wandb is a link" in capsys.readouterr().err
    assert not list(outside.iterdir())


def secret(folder):
    """A trial with scores and a picture, that is nobody's business."""
    scores(folder, [score_row(1.0, {"frechet": 77.125})], checkpoint="secret")
    preview(folder / "samples.png")
    return folder


def test_nothing_outside_the_folder_is_read(tmp_path):
    """Neither what sweep.json names, nor what a link leads to; a pipe is not waited for."""
    outside, folder = secret(tmp_path / "outside"), tmp_path / "s"
    manifest(folder, product(a=[0, 1, 2, 3, 4, 5]))
    told = json.loads((folder / "sweep.json").read_text())
    for number, where in enumerate(["../outside", str(outside), "link", "x" * 5000]):
        told["trials"][number]["folder"] = where
    (folder / "sweep.json").write_text(json.dumps(told))
    (folder / "link").symlink_to(outside)
    last = folder / "5"
    last.mkdir()
    (last / "scores.json").symlink_to(outside / "scores.json")
    (last / "samples.png").symlink_to(outside / "samples.png")
    (last / ".hydra").mkdir()
    os.mkfifo(last / ".hydra" / "config.yaml")
    os.mkfifo(folder / ".sweep.lock")
    found = remarks(folder)
    assert [remark[:2] for remark in found] == ["#0", "#1", "#2", "#3", "#5", "#5", "#5"]
    assert all("lies outside the sweep's folder: nothing of it is read" in remark for remark in found[:4])
    assert found[4:] == [
        "#5: .hydra/config.yaml cannot be read: it is no file",
        "#5: scores.json cannot be read: it is a link out of the sweep's folder",
        "#5: samples.png is a link out of the sweep's folder: not shown",
    ]
    write_report(folder)
    text = (folder / "report.html").read_text()
    assert "77.1" not in text
    assert "secret" not in text
    assert "nothing of it is read" in text
    assert not (folder / "report").exists()  # no picture


def test_links_of_a_folder_without_a_manifest_are_left_out(tmp_path):
    outside = secret(tmp_path / "outside")
    secret(tmp_path / "s" / "0")
    (tmp_path / "s" / "1").symlink_to(outside)
    assert [trial.folder.name for trial in read_sweep(tmp_path / "s").trials] == ["0"]
    assert remarks(tmp_path / "s") == ["1 lies outside the sweep's folder: left out"]


def huge(file, size=1 << 40):
    """A file of zeros that takes no space."""
    with file.open("wb") as opened:
        opened.truncate(size)


def png(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def bitmap(file):
    """A picture that PIL reads, under another name: so would it PostScript, by another program."""
    Image.new("L", (8, 8)).save(file, format="BMP")


LAUGHS = "a: &a [x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMBS = {
    ".hydra/config.yaml: large": (huge, "it has 1,099,511,627,776 bytes, of which at most 1,048,576 are read"),
    ".hydra/config.yaml: aliases": (LAUGHS, "it has aliases"),
    ".hydra/config.yaml: itself": ("&a [*a]", "it has aliases"),
    ".hydra/config.yaml: deep": ("[" * 500_000, "it is nested too deeply"),
    ".hydra/config.yaml: object": ("!!python/object/apply:os.mkdir [ran]", "it is no YAML"),
    ".hydra/config.yaml: integer": ("!!int ''", "it is no YAML"),
    "scores.json: large": (huge, "it has 1,099,511,627,776 bytes, of which at most 16,777,216 are read"),
    "scores.json: deep": ('{"rows": [], "protocol": ' + "[" * 500 + "]" * 500 + "}", "it is nested too deeply"),
    "scores.json: deeper": ("[" * 100_000, "it is nested too deeply"),
    "scores.json: step": ('{"rows": [{"step": "x", "scores": {}}], "protocol": 0}', "'x' is no step"),
    "scores.json: score": ('{"rows": [{"scores": {"a": {"value": "1", "low": 0}}}], "protocol": 0}', "'1' is no score"),
    "csv/version_0/metrics.csv: large": (huge, "it has 1,099,511,627,776 bytes, of which at most 67,108,864 are read"),
    "csv/version_0/metrics.csv: wide": ("step" + ",a" * 20_000 + "\n", "it has 20,001 columns, of which at most"),
    "csv/version_0/metrics.csv: field": (f"step,val/loss\n1,{'1' * 200_000}\n", "1 torn line left out"),
    "csv/version_0/metrics.csv: step": (f"step,val/loss\n{'9' * 40},1\n", "1 torn line left out"),
    "previews/step_1.png: pixels": (png(30_000, 30_000), "it has far too many pixels"),
    "previews/step_1.png: many": (png(11_000, 11_000), "it has far too many pixels"),
    "previews/step_1.png: other": (bitmap, "it is torn or no PNG"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_take_the_memory_is_left_out_with_a_remark(tmp_path, bomb, recwarn):
    content, why = BOMBS[bomb]
    scores(tmp_path / "0", [score_row(1.0, {"frechet": 2.0})])
    file = tmp_path / "1" / bomb.partition(":")[0]
    scores(tmp_path / "1", [score_row(2.0, {"frechet": 3.0})])
    file.parent.mkdir(parents=True, exist_ok=True)
    content(file) if callable(content) else file.write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text().replace("\\", "")
    assert why in text.partition("## What could not be read")[2], text
    assert "2.000 [1.900, 2.100]" in text
    assert not recwarn.list


def test_a_manifest_that_is_none_is_one_sentence(tmp_path, capsys):
    trial = {"number": 0, "folder": "0", "overrides": ["a=1"], "state": "finished"}
    for change in ({"number": "0"}, {"folder": 3}, {"overrides": [1]}, {"overrides": "a=1"}, {"state": "\x1b[31m"}):
        (tmp_path / "sweep.json").write_text(json.dumps({"trials": [trial | change]}))
        assert main([str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {tmp_path}/sweep.json is no manifest of a sweep: ")
        assert said.count("\n") == 1
        assert "\x1b" not in said
    huge(tmp_path / "sweep.json")
    assert main([str(tmp_path)]) == 1
    assert "of which at most 16,777,216 are read" in capsys.readouterr().err


HOSTILE = [
    "<script>x</script>", '"><img src=x onerror=x>', "\x1b]0;title\x07", "\u202edesrever", "\ud800", "a|b`c`\n# d",
    "$\\frac{$", "[/x]", "=cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "+x", "-x", "\uff1d1", "-1.5", "+2e3",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Glyph")
def test_words_of_files_are_words_everywhere(tmp_path, capsys):
    folder = small(tmp_path / "s", error={0: HOSTILE[0] + HOSTILE[2]}, state={0: "failed"})
    choices = [{"key": value} for value in HOSTILE]
    manifest(folder, choices, error={0: HOSTILE[0] + HOSTILE[2]}, value={1: "=1"}, state={0: "failed"})
    for number, _ in enumerate(choices):
        scores(folder / str(number), [score_row(1.0, {"frechet": 2.0, HOSTILE[1]: number}, name=HOSTILE[8])])
    assert main([str(folder)]) == 0
    page, text = ((folder / name).read_text() for name in ("report.html", "report.md"))
    for sign in ("\x1b", "\x07", "\u202e", "<script>", "<img src=x"):
        assert sign not in page
        assert sign not in text.replace("\\<", "")
        assert sign not in capsys.readouterr().out
    assert "&lt;script&gt;" in page
    assert "\\x1b]0;title\\x07" in page
    assert r"| a\|b\`c\`\\n# d | " in text
    assert r"\$\\frac{\$" in text
    with (folder / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows[8:]] == [
        "'=cmd|' /C calc'!A0", "'@SUM(A1)", "\\t=1", "'+x", "'-x", "'\uff1d1", "-1.5", "+2e3",
    ]  # fmt: skip
    assert rows[1]["value"] == "'=1"
    assert {row["row"] for row in rows} == {"'" + HOSTILE[8]}
    assert "left out" not in text  # all figures could be drawn


def test_a_figure_that_cannot_be_drawn_is_left_out_with_a_remark(tmp_path, monkeypatch):
    folder = small(tmp_path / "s")

    def overflow(*_):
        raise OverflowError("cannot convert\n\x1b float infinity")

    monkeypatch.setattr("dit.report.lines.curves", overflow)
    monkeypatch.setattr(write, "fits_memory", lambda inches, _: False)
    write_report(folder)
    text = (folder / "report.md").read_text().replace("\\", "")
    assert "- the figure key val/loss is left out: it would be too large\n" in text
    assert "- the figure curves val/loss is left out: cannot convert x1b float infinity\n" in text
    assert "0.4000" in text
    assert not (folder / "report").exists()


def test_a_figure_as_large_as_the_memory_is_too_large():
    assert write.fits_memory((10.5, 11), 200)
    assert not write.fits_memory((300, 300), 200)


def test_more_samples_than_can_be_looked_at_are_not_drawn(tmp_path):
    folder = manifest(tmp_path, [{"a": number, "b": number} for number in range(21)])
    for number in range(21):
        preview(folder / str(number) / "samples.png", rows=1, columns=1)
    write_report(folder)
    assert "1 figures of 441 pictures are more than can be looked at" in (folder / "report.md").read_text()


def test_long_names_are_cut_and_logarithmic_axes_are_without_mathematics(tmp_path):
    names = ["1e-5", "1e-2", "1"]
    folder = sweep(tmp_path / "s", product(**{"x" * 300: names}), lambda _: [0.5])
    (panel,) = against_key(trained(read_sweep(folder)), "val/loss").axes
    assert panel.get_xlabel() == "x" * 57 + "..."
    panel.figure.canvas.draw()
    labels = [label.get_text() for label in panel.get_xticklabels()]
    assert "0.01" in labels
    assert not any("$" in label for label in labels)


def test_what_a_sweep_prints_is_no_markup(capsys):
    from rich.console import Console

    from hydra_plugins.ditlab import _say

    _say(Console(), "#0 failed: error: [/x] [bold] :smile: \x1b[31m")
    assert capsys.readouterr().out == "#0 failed: error: [/x] [bold] :smile: \\x1b[31m\n"
