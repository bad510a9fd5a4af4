"""The report of a sweep: its numbers are those of the files, and nothing that a sweep left behind stops it."""

import csv
import fcntl
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from PIL import Image

from dit.report import write_report
from dit.report.__main__ import main
from dit.report.heat import heat_map
from dit.report.lines import against_scale, curves
from dit.report.page import html, markdown
from dit.report.points import scored, trained
from dit.report.read import read_sweep
from dit.report.samples import sheets
from dit.report.summary import as_csv, overview
from dit.report.summary import tables as page_tables
from tests.metrics.sweeps import hydra, manifest, metrics, preview, product, real_row, score_row, scores, sweep

ROOT = Path(__file__).parents[2]
LOSS = {"flow_linear": 0.5, "ddpm_cosine": 0.3}
CHOICES = product(diffusion=list(LOSS), dropout__class=[0.1, 0.5], seed=[0, 1, 2])


def final(choice):
    return LOSS[choice["diffusion"]] + 0.1 * choice["dropout.class"] + 0.013 * choice["seed"] ** 2


def descending(choice):
    return [final(choice) + 0.4, final(choice) + 0.1, final(choice)]


def tables(text):
    """Of Markdown, each as a list of dicts."""
    found = []
    for block in text.replace("\\", "").split("\n\n"):
        if block.startswith("|"):
            head, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.strip().splitlines())
            found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def rows_of(text):
    """Of report.csv."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def said(folder):
    return (folder / "report.md").read_text().replace("\\", "")


def words(folder):
    """What report.md would say, without the time to draw."""
    found = read_sweep(folder)
    return markdown([*overview(found), *page_tables(found)], folder).replace("\\", "")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = sweep(tmp_path_factory.mktemp("plain") / "sweep", CHOICES, descending)
    write_report(folder)
    return folder


def test_the_table_has_mean_and_spread_over_the_seeds_and_marks_the_best(plain):
    (table,) = tables(said(plain))
    assert [(row["diffusion"], row["dropout.class"], row["seeds"]) for row in table] == [
        ("flow_linear", "0.1", "3"),
        ("flow_linear", "0.5", "3"),
        ("ddpm_cosine", "0.1", "3"),
        ("ddpm_cosine", "0.5", "3"),
    ]
    for row in table:
        values = [
            final({"diffusion": row["diffusion"], "dropout.class": float(row["dropout.class"]), "seed": seed})
            for seed in range(3)
        ]
        assert row["val/loss"].strip("*") == f"{fmean(values):.4f} ± {stdev(values):.4f}"
        assert row["val_raw/loss"].strip("*") == f"{fmean(values) + 0.01:.4f} ± {stdev(values):.4f}"
    marked = [[row[column].startswith("**") for row in table] for column in ("val/loss", "val_raw/loss", "train/loss")]
    assert marked[:2] == [[False, False, True, False]] * 2
    assert not any(marked[2])  # the training loss depends on the schedule


def test_the_csv_has_every_trial_with_the_numbers_of_its_file(plain):
    rows = rows_of((plain / "report.csv").read_text())
    assert [int(row["trial"]) for row in rows] == list(range(12))
    for row, choice in zip(rows, CHOICES, strict=True):
        assert {key: row[key] for key in choice} == {key: str(value) for key, value in choice.items()}
        assert float(row["val/loss"]) == final(choice)
        assert float(row["val/loss_log_snr+1"]) == 2 * final(choice)
        assert (row["state"], row["step"], row["images_seen"]) == ("finished", "300", "19200.0")
    assert "experiment" not in rows[0]


def test_what_was_swept_is_told_apart_from_what_was_fixed(plain):
    text = said(plain)
    assert "12 trials: 12 finished." in text
    assert "- diffusion: flow_linear, ddpm_cosine\n- dropout.class: 0.1, 0.5\n- seed: 0, 1, 2\n" in text
    assert "The same in all trials: experiment=digits trainer.max_steps=300" in text
    assert "levels [-3, 0, 3], seed 0; data: target data.Digits" in text
    assert "Warning" not in text


class Assets(HTMLParser):
    """What a page would fetch."""

    def __init__(self):
        super().__init__()
        self.fetched, self.links = [], []

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("src", "srcset", "data", "poster") or (tag == "link" and key == "href"):
                self.fetched.append(value)
            elif key == "href":
                self.links.append(value)
        assert tag not in ("script", "iframe", "object", "embed")


def test_the_page_needs_nothing_but_itself_and_says_what_the_markdown_says(plain):
    page, seen = (plain / "report.html").read_text(), Assets()
    seen.feed(page)
    names = ["heat_val_loss", "heat_val_raw_loss", "curves_val_loss", "samples"]
    assert len(seen.fetched) == len(names)
    assert all(asset.startswith("data:image/png;base64,") for asset in seen.fetched)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "url(" not in page
    assert "@import" not in page
    (table,) = tables(said(plain))
    for row in table:
        for cell in row.values():
            tag = '<td class="best">' if cell.startswith("**") else "<td"
            assert f"{cell.strip('*')}</td>" in page
            assert tag in page
    assert seen.links == [f"report/{name}.pdf" for name in names]
    for name in names:
        assert f"(report/{name}.png)" in said(plain)
        with Image.open(plain / "report" / f"{name}.png") as image:
            assert image.width > 300
        assert (plain / "report" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_sweep_gives_the_same_files_each_replaced_as_a_whole(plain):
    files = [file for file in plain.rglob("report*") if file.is_file()] + list((plain / "report").iterdir())
    before = {file: (file.read_bytes(), file.stat().st_ino) for file in files}
    kept = (plain / "report.csv").open()
    inside = kept.read()
    write_report(plain)
    for file, (content, inode) in before.items():
        assert file.read_bytes() == content, file
        assert file.stat().st_ino != inode  # another file under the old name
    kept.seek(0)
    assert kept.read() == inside
    assert not list(plain.rglob("*.tmp"))


def test_what_cannot_be_written_leaves_the_old_report(plain, monkeypatch):
    from dit.report import write

    before = {file.name: file.read_bytes() for file in plain.glob("report.*")}
    real = Path.write_bytes

    def full(self, content):
        real(self, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.Path, "write_bytes", full)
    assert main([str(plain)]) == 1
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in plain.glob("report.*")} == before
    assert not list(plain.rglob("*.tmp"))


def test_a_heat_map_holds_the_means_of_the_table(plain):
    figure = heat_map(trained(read_sweep(plain)), "val/loss")
    written = [text.get_text() for text in figure.axes[0].texts]
    (table,) = tables(said(plain))
    assert written == [row["val/loss"].strip("*").replace(" ± ", "\n± ") for row in table]
    weights = [text.get_fontweight() for text in figure.axes[0].texts]
    assert weights == ["normal", "normal", "bold", "normal"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("dropout.class", "diffusion")


def test_what_is_the_same_everywhere_is_no_map(tmp_path):
    """Such as no spikes in any trial."""
    folder = sweep(tmp_path / "sweep", CHOICES[:3] + CHOICES[-3:], lambda choice: [0.5, 0.4])
    assert heat_map(trained(read_sweep(folder)), "val/loss") is None


def test_curves_are_means_with_a_band_from_the_lowest_to_the_highest_seed(plain):
    figure = curves(trained(read_sweep(plain)), "val/loss")
    assert [panel.get_title() for panel in figure.axes] == ["class = 0.1", "class = 0.5"]
    line, band = figure.axes[1].lines[0], figure.axes[1].collections[0]
    seeds = [descending({"diffusion": "flow_linear", "dropout.class": 0.5, "seed": seed}) for seed in range(3)]
    assert list(line.get_xdata()) == [100, 200, 300]
    assert list(line.get_ydata()) == pytest.approx([fmean(values) for values in zip(*seeds, strict=True)])
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((min(map(min, seeds)), max(map(max, seeds))))


def test_why_a_curve_ended_is_said_inside_the_panel(tmp_path):
    losses = {"a": [0.9, 0.5, 0.4], "b": [0.8], "c": [0.7, 0.6, 0.5]}
    states = {1: "failed", 2: "failed"}
    folder = sweep(tmp_path / "s", product(diffusion=list(losses)), lambda c: losses[c["diffusion"]], state=states)
    notes = curves(trained(read_sweep(folder)), "val/loss").axes[0].texts
    assert [(note.xy[0], note.get_ha(), note.get_text()) for note in notes] == [
        (100, "left", "failed"),
        (300, "right", "failed"),
    ]


def test_a_failed_trial_is_named_and_its_numbers_do_not_count(tmp_path):
    """Trial 6 has the lowest loss of all, but broke."""
    error = {6: "the loss is not finite at step 250 (rank 0)", 3: "rank 0 was ended by SIGKILL"}
    states = dict.fromkeys(error, "failed")
    folder = sweep(tmp_path / "s", CHOICES, lambda c: descending(c)[:2] if c["seed"] else descending(c),
                   state=states, error=error)  # fmt: skip
    text = words(folder)
    assert "12 trials: 10 finished, 2 failed." in text
    assert "- #3 diffusion=flow_linear dropout.class=0.5 seed=0 failed at step 300: rank 0 was ended by SIGKILL" in text
    assert "- #6 diffusion=ddpm_cosine dropout.class=0.1 seed=0 failed at step 300: the loss is not finite" in text
    (table,) = tables(text)
    assert [row["seeds"] for row in table] == ["3", "2 of 3", "2 of 3", "3"]
    assert [row["step"] for row in table] == ["200, 300", "200", "200", "200, 300"]
    values = [final(CHOICES[n]) + 0.1 for n in (7, 8)]
    assert table[2]["val/loss"].strip("*") == f"{fmean(values):.4f} ± {stdev(values):.4f}"
    assert rows_of(as_csv(read_sweep(folder)))[6]["error"] == error[6]


def test_a_point_none_of_whose_trials_finished_says_why(tmp_path):
    choices = product(diffusion=["a", "b"], dropout__class=[0.1, 0.5])
    folder = sweep(tmp_path / "s", choices, lambda _: [0.5], state={1: "failed", 2: "running", 3: "queued"})
    (table,) = tables(words(folder))
    assert [row["val/loss"] for row in table] == ["0.5000", "failed", "unfinished", "unfinished"]
    assert "4 trials: 1 finished, 1 failed, 2 unfinished." in words(folder)
    cells = heat_map(trained(read_sweep(folder)), "val/loss").axes[0].texts
    assert [cell.get_text() for cell in cells] == ["0.5000", "failed", "unfinished", "unfinished"]


def test_a_sweep_that_is_still_running_says_so(tmp_path):
    choices = product(diffusion=["a", "b", "c"])
    folder = sweep(tmp_path / "s", choices, lambda _: [0.5], state={1: "running", 2: "queued"})
    with (folder / ".sweep.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Warning:** this sweep is still running" in words(folder)
        assert "3 trials: 1 finished, 1 running, 1 queued." in words(folder)
    assert "still running" not in words(folder)


def test_values_that_are_no_numbers_are_shown_as_diverged(tmp_path):
    choices = product(optimizer__lr=["1e-4", "1e-3", "1e-1"], seed=[0, 1])
    broken = {4: [0.9, math.nan, math.nan], 5: [0.9, 0.8, math.inf], 2: [0.9, 0.5, math.nan]}
    folder = sweep(
        tmp_path / "s",
        choices,
        lambda c: broken.get(choices.index(c), [1.0, 0.6, 0.4 - 0.1 * (c["optimizer.lr"] == "1e-3")]),
    )
    write_report(folder)
    (table,) = tables(said(folder))
    assert [row["val/loss"] for row in table] == ["0.4000 ± 0.0000", "**0.3000 (1 diverged)**", "diverged"]
    assert rows_of((folder / "report.csv").read_text())[4]["val/loss"] == "nan"
    figure = curves(trained(read_sweep(folder)), "val/loss")
    assert [note.get_text() for note in figure.axes[0].texts] == ["diverged", "diverged"]
    assert {file.stem for file in (folder / "report").glob("*.png")} == {
        "key_val_loss", "key_val_raw_loss", "curves_val_loss", "samples",
    }  # fmt: skip


def test_other_launchers_leave_no_manifest_and_whatever_is_torn_is_told(tmp_path):
    """Trials without metrics, cut short, with torn lines, a torn picture, torn scores, two digits in a number."""
    choices = product(diffusion=["a", "b"], dropout__class=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    for number, choice in enumerate(choices):
        trial = tmp_path / str(number)
        hydra(trial, choice)
        if number != 1:
            metrics(trial, [1.0, 0.7] if number == 2 else [1.0, 0.7, 0.5 + 0.001 * number])
        if number != 3:
            preview(trial / "previews" / "step_0000300.png", number)
    (tmp_path / ".submitit").mkdir()
    (tmp_path / "multirun.yaml").touch()
    (tmp_path / "4" / "previews" / "step_0000300.png").write_bytes(b"\x89PNG torn")
    file = tmp_path / "5" / "csv" / "version_0" / "metrics.csv"
    file.write_text(file.read_text() + "3,,4\nx,y,z,0.1,0.0,0,0\n,,399,\0\0,0.001,0,0\n7,,499,0.1,0.0")
    (tmp_path / "0" / "scores.json").write_text('{"protocol": {')
    (tmp_path / "6" / ".hydra" / "config.yaml").write_text("a: [")
    text = words(tmp_path)
    assert "12 trials: 9 finished, 2 unfinished, 1 of which nothing tells whether they finished." in text
    assert "- #1 diffusion=a dropout.class=0.2 unfinished\n" in text
    assert "- #2 diffusion=a dropout.class=0.3 unfinished at step 200\n" in text
    assert "- #0: scores.json cannot be read" in text
    assert "- #5: metrics.csv: 4 torn lines left out" in text
    assert "- #6: .hydra/config.yaml cannot be read" in text
    (table,) = tables(text)
    assert [row["val/loss"].strip("*") for row in table] == [
        "0.5000", "unfinished", "unfinished", *(f"{0.5 + 0.001 * n:.4f}" for n in range(3, 12)),
    ]  # fmt: skip
    ((_, figure),) = sheets(trained(read_sweep(tmp_path)), "")
    missing = [bool(panel.texts) for panel in figure.axes]
    assert missing == [number in (3, 4) for number in range(12)]


def test_seeds_alone_and_one_key_and_three(tmp_path):
    folder = sweep(tmp_path / "seeds", product(seed=[3, 4]), lambda c: [0.5, 0.1 * c["seed"]])
    write_report(folder)
    (table,) = tables(said(folder))
    losses = {"val/loss": "0.3500 ± 0.0707", "val_raw/loss": "0.3600 ± 0.0707", "train/loss": "0.2500 ± 0.0707"}
    assert table == [{"trials": "#0, #1", "seeds": "2", **losses}]
    assert {file.stem for file in (folder / "report").glob("*.png")} == {"curves_val_loss", "samples"}

    choices = product(diffusion=["a", "b"], dropout__class=[0.1, 0.5], optimizer__betas=["[0.9,0.95]", "[0.9,0.99]"])
    folder = sweep(tmp_path / "three", choices, lambda c: [0.5 + 0.1 * choices.index(c)])
    maps = heat_map(trained(read_sweep(folder)), "val/loss").axes[:2]
    assert [panel.get_title() for panel in maps] == ["betas = [0.9,0.95]", "betas = [0.9,0.99]"]
    assert [[cell.get_text() for cell in panel.texts] for panel in maps] == [
        ["0.5000", "0.7000", "0.9000", "1.100"], ["0.6000", "0.8000", "1.000", "1.200"],
    ]  # fmt: skip
    names = [choice for choice, _ in sheets(trained(read_sweep(folder)), "")]
    assert names == ["betas = [0.9,0.95]", "betas = [0.9,0.99]"]


def frechet(choice, scale):
    return 10 + 100 * (choice["dropout.class"] - 0.2) ** 2 + 5 * (scale - 1.5) ** 2 + choice["seed"]


def with_scores(folder, **odd):
    """Scores at three scales at two steps, in the folders of a sweep of train.py."""
    choices = product(diffusion=["a", "b"], dropout__class=[0.1, 0.2], seed=[0, 1])
    sweep(folder, choices, lambda _: [0.5])
    for number, choice in enumerate(choices):
        rows = [real_row({"frechet": 4.0, "accuracy": 0.99})]
        for scale in (1.0, 1.5, 2.0):
            values = {"frechet": frechet(choice, scale), "accuracy": 0.8 + 0.05 * scale}
            rows += [score_row(scale, {"frechet": 99.0}, step=100), score_row(scale, values)]
        scores(folder / str(number), rows, seed=choice["seed"], **odd.get(str(number), {}))
    return choices


def test_scores_have_a_row_a_scale_and_stand_beside_real_pictures(tmp_path):
    choices = with_scores(tmp_path / "s")
    text = words(tmp_path / "s")
    table = tables(text)[1]
    assert len(table) == 2 * 2 * 3 + 1
    for row in table[:-1]:
        choice = {"diffusion": row["diffusion"], "dropout.class": float(row["dropout.class"])}
        values = [frechet(choice | {"seed": seed}, float(row["scale"])) for seed in (0, 1)]
        assert row["Frechet distance"].strip("*") == f"{fmean(values):.2f} ± {stdev(values):.2f}"
    best = [(row["dropout.class"], row["scale"]) for row in table if row["Frechet distance"].startswith("**")]
    assert best == [("0.2", "1.5")] * 2
    best = {row["scale"] for row in table if row["class accuracy"].startswith("**")}
    assert best == {"2"}
    assert list(table[-1].values()) == ["real pictures", "", "", "", "4.000", "0.9900"]
    rows = rows_of(as_csv(read_sweep(tmp_path / "s")))
    assert len(rows) == 8 * 4
    for row in rows:
        if row["row"] == "real pictures":
            assert float(row["frechet"]) == 4.0
        else:
            value = frechet(choices[int(row["trial"])], float(row["scale"]))
            assert float(row["frechet"]) == value
            assert (float(row["frechet_low"]), float(row["frechet_high"])) == (value - 0.1, value + 0.1)
    assert "reference: name digits, held out, images 360, digest 0a1b2c" in text
    assert "Warning" not in text
    real = scored(read_sweep(tmp_path / "s"))
    figure = against_scale(*real, "frechet")
    assert [panel.get_title() for panel in figure.axes] == ["class = 0.1", "class = 0.2"]
    assert list(figure.axes[0].lines[0].get_xdata()) == [1.0, 1.5, 2.0]
    first = {"dropout.class": 0.1}
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx(
        [fmean(frechet(first | {"seed": seed}, scale) for seed in (0, 1)) for scale in (1.0, 1.5, 2.0)]
    )
    assert figure.axes[0].lines[-1].get_ydata() == [4.0, 4.0]


def test_scores_under_different_protocols_are_told_apart(tmp_path):
    odd = {"1": {"images": 500}, "2": {"features": {"name": "inception", "digest": "ffff", "held_out_accuracy": None}}}
    with_scores(tmp_path / "s", **odd)
    (tmp_path / "s" / "3" / ".hydra" / "config.yaml").write_text(
        "validation: {levels: [-1, 1], seed: 0}\ndata: {_target_: data.Digits, image_size: 8, validation_images: 360}\n"
    )
    text = words(tmp_path / "s")
    assert "**Warning:** scores were measured under different protocols: images is 1000 in #0, #2, #3, #4" in text
    assert "but 500 in #1" in text
    assert "features.name is classifier in #0, #1, #3, #4 and 3 others but inception in #2" in text
    assert "validation losses were measured under different protocols: validation.levels is [-3, 0, 3] in #0" in text
    assert '<p class="warning"><b>Warning:</b> scores' in html(page_tables(read_sweep(tmp_path / "s")), tmp_path)


@pytest.mark.parametrize(
    ("key", "facts"),
    [
        ("checkpoint", {"step": 600, "checkpoint": "other.ckpt"}),
        ("ema", {"weights": "raw"}),
        ("images", {"images": 500}),
        ("labels", {"labels": "random"}),
        ("trainer.max_steps", {"step": 600}),
    ],
)
def test_what_was_swept_is_no_other_protocol(tmp_path, key, facts):
    folder = tmp_path / "s"
    choices = [{key: "a"}, {key: "b"}]
    manifest(folder, choices)
    for number, more in enumerate(({}, facts)):
        hydra(folder / str(number), choices[number])
        scores(folder / str(number), [score_row(1.0, {"frechet": 2.0 + number})], **more)
    assert "Warning" not in words(folder)
    scores(folder / "1", [score_row(1.0, {"frechet": 3.0})], **facts, features={"name": "classifier", "digest": "f"})
    assert "Warning" in words(folder)


def test_a_sweep_of_evaluate_without_overrides_is_told_by_its_rows(tmp_path):
    """One rule, solver and scale a trial, and no manifest."""
    number = 0
    for rule in ({"name": "CFG"}, {"name": "TNR", "inner": {"name": "CFG"}}):
        for solver in ("Heun", "Euler"):
            for scale in (1.0, 4.0, 16.0):
                value = 30 + scale + len(solver) + len(rule)
                row = score_row(scale, {"frechet": value}, guidance=rule, solver={"name": solver}, name=f"#{number}")
                scores(tmp_path / str(number), [row, real_row({"frechet": 26.0})])
                preview(tmp_path / str(number) / "samples.png", 0, rows=2, columns=4)
                number += 1
    write_report(tmp_path)
    (table,) = tables(said(tmp_path))
    assert list(table[0]) == ["guidance", "solver", "scale", "Frechet distance"]
    assert list(table[0].values()) == ["CFG", "Heun", "1", "**36.00 [35.90, 36.10]**"]
    assert table[8]["guidance"] == "TNR(CFG)"
    assert (tmp_path / "report" / "scale_frechet.png").exists()
    axes = against_scale(*scored(read_sweep(tmp_path)), "frechet").axes
    assert [panel.get_title() for panel in axes] == ["solver = Heun", "solver = Euler"]
    assert axes[0].get_xscale() == "log"


def test_a_swept_scale_is_one_axis_and_not_two(tmp_path):
    choices = product(guidance=["cfg", "cfg_plus_plus"], guidance__scale=[1.0, 2.0])
    manifest(tmp_path, choices)
    for number, choice in enumerate(choices):
        scores(tmp_path / str(number), [score_row(choice["guidance.scale"], {"frechet": 5.0 + number})])
    (table,) = tables(words(tmp_path))
    assert list(table[0]) == ["guidance", "guidance.scale", "Frechet distance"]
    (panel,) = against_scale(*scored(read_sweep(tmp_path)), "frechet").axes
    assert [list(line.get_ydata()) for line in panel.lines] == [[5.0, 6.0], [7.0, 8.0]]


def test_samples_are_those_of_one_seed_laid_on_their_side(plain):
    """A sheet of 5 classes and 3 pictures a class, classes as columns; each tile is what it was."""
    ((choice, figure),) = sheets(trained(read_sweep(plain)), "1")
    assert choice == ""
    assert [panel.get_title() for panel in figure.axes] == ["0.1", "0.5", "", ""]
    assert [panel.get_ylabel() for panel in figure.axes] == ["flow_linear", "", "ddpm_cosine", ""]
    for panel, trial in zip(figure.axes, (1, 4, 7, 10), strict=True):
        shown = panel.images[0].get_array()
        sheet = np.asarray(Image.open(plain / str(trial) / "previews" / "step_0000300.png"))
        for y in range(5):
            for x in range(3):
                tile = shown[2 + 18 * x :, 2 + 18 * y :][:16, :16]
                assert (tile == sheet[2 + 18 * y :, 2 + 18 * x :][:16, :16]).all()


def test_a_folder_that_is_no_sweep_is_refused_in_one_sentence(tmp_path, capsys):
    for folder, why in (
        (tmp_path / "gone", "there is no such folder"),
        (tmp_path, "it has neither sweep.json nor folders of trials"),
    ):
        assert main([str(folder)]) == 1
        assert capsys.readouterr().err == f"error: {folder} is no folder of a sweep: {why}\n"
    (tmp_path / "sweep.json").write_text('{"trials": [{"number": 0}]}')
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/sweep.json is no manifest of a sweep\n"
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.json"]


def test_a_sweep_without_numbers_has_a_report_and_needs_no_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    choices = product(a=[1, 2])
    manifest(tmp_path, choices, state={0: "failed", 1: "failed"}, error={0: "a must be 2", 1: "rank 0 died"})
    write_report(tmp_path)
    assert "- #0 a=1 failed: a must be 2\n- #1 a=2 failed: rank 0 died" in said(tmp_path)
    assert "there is nothing to compare" in said(tmp_path)
    assert not (tmp_path / "report").exists()


def test_missing_matplotlib_is_named_before_anything_is_written(tmp_path, monkeypatch, capsys):
    folder = sweep(tmp_path / "s", product(diffusion=["a", "b"]), lambda _: [0.5])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(folder)]) == 1
    assert capsys.readouterr().err == "error: the figures of a report need matplotlib: pip install 'ditlab[train]'\n"
    assert not list(folder.glob("report*"))


def test_wandb_offline_has_the_table_and_the_pictures(plain, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main([str(plain), "--wandb", "sweeps"]) == 0
    (media,) = plain.glob("wandb/offline-run-*/files/media")
    (table,) = (media / "table" / "report").glob("table_*.json")
    logged = json.loads(table.read_text())
    column = logged["columns"].index("val/loss")
    assert [row[column] for row in logged["data"]] == [final(choice) for choice in CHOICES]
    images = sorted(file.name.rsplit("_", 2)[0] for file in (media / "images" / "report").glob("*.png"))
    assert images == ["curves_val_loss", "heat_val_loss", "heat_val_raw_loss", "samples"]


def test_the_command_is_what_the_guide_says(plain):
    run = subprocess.run([sys.executable, "-m", "dit.report", str(plain)], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == f"report: {plain}/report.html, with report.md and report.csv\n"
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.slow
def test_a_real_sweep_ends_in_its_report(tmp_path):
    command = [sys.executable, "train.py", "-m", "experiment=digits", "debug=fast"]
    command += ["diffusion=flow_linear,ddpm_cosine", "dropout.class=0.1,2"]
    run = subprocess.run([*command, f"hydra.sweep.dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert f"report: {tmp_path}/report.html" in run.stdout
    text = said(tmp_path)
    assert "4 trials: 2 finished, 2 failed." in text
    assert "#1 diffusion=flow_linear dropout.class=2 failed: " in text
    (table,) = tables(text)
    told = json.loads((tmp_path / "sweep.json").read_text())["trials"]
    for row, trial in zip(table, told, strict=True):
        assert row["val/loss"].strip("*") == ("failed" if trial["value"] is None else f"{trial['value']:.4g}")
    assert (tmp_path / "report" / "samples.png").exists()
    assert (tmp_path / "report" / "curves_val_loss.png").exists()


def test_a_report_that_fails_is_one_sentence_and_changes_nothing_of_the_sweep(tmp_path, monkeypatch, capsys):
    from rich.console import Console

    from hydra_plugins.ditlab import _report

    (tmp_path / "sweep.json").write_text("[]")
    _report(tmp_path, Console(width=20))
    why = "it must be an object, got a list"
    assert capsys.readouterr().out == f"no report: {tmp_path}/sweep.json is no manifest of a sweep: {why}\n"
    monkeypatch.setattr("dit.report.write_report", lambda _: 1 / 0)
    _report(tmp_path, Console())
    assert capsys.readouterr().out == "no report: ZeroDivisionError: division by zero\n"
