"""What is said of a data set before training: counts, files, moments, duplicates, faults, and a picture of it."""

import csv
import json
import os
import runpy
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from rich.console import Console

from data import Digits, Folder
from data.inspect import contact_sheet, examine
from data.inspect.measure import PictureStatistics, leaks, twins
from data.inspect.printed import show
from data.latents.manifest import Manifest
from data.order import EndlessOrder
from tests.data.test_bad_input import PIXELS, encoded
from tests.data.test_data import tree  # noqa: F401

ROOT = Path(__file__).parents[2]


def quiet(items, total, title):
    return items


def folder(root, **changes):
    return Folder(**{"root": str(root), "image_size": 16, "channels": 3, "num_classes": 3, "batch_size": 4, **changes})


def examined(data, limit=None):
    return examine(data, data.survey(), limit, quiet)


def test_digits_are_counted_and_measured():
    data = Digits(image_size=8, channels=1, num_classes=10, batch_size=64)
    report = examined(data)
    pixels = data.train.pixels.double()
    train = report["splits"]["train"]
    assert (train["pictures"], train["decoded"], report["splits"]["validation"]["decoded"]) == (1437, 1437, 360)
    assert train["pixels"] == {
        "mean": [pytest.approx(float(pixels.mean()))],
        "std": [pytest.approx(pixels.std().item(), 1e-3)],
    }
    assert train["model_space"]["mean"][0] == pytest.approx(float(pixels.mean()) / 127.5 - 1, abs=1e-6)
    assert train["model_space"]["std"][0] == pytest.approx(train["pixels"]["std"][0] / 127.5, rel=1e-6)
    assert [entry["name"] for entry in report["classes"]] == list("0123456789")
    assert sum(entry["validation"] for entry in report["classes"]) == 360
    assert train["files"] is None
    assert (train["unreadable"], report["refused"], report["in_both"]["pictures"]) == ([], [], 0)
    limited = examined(data, limit=100)["splits"]["train"]
    assert (limited["pictures"], limited["decoded"]) == (1437, 100)


def test_channels_are_measured_apart(tree):  # noqa: F811
    data = folder(tree)
    report = examined(data)
    images = data.survey().train.tensors()[0].double()
    assert report["splits"]["train"]["pixels"]["mean"] == pytest.approx(images.mean((0, 2, 3)).tolist())
    assert report["splits"]["train"]["pixels"]["std"] == pytest.approx(images.std((0, 2, 3), correction=0).tolist())


def test_files_are_told_by_size_format_and_what_is_done_to_them(tree):  # noqa: F811
    ant = tree / "train" / "ant"
    turned = Image.Exif()
    turned[0x0112] = 6
    (ant / "turned.jpg").write_bytes(encoded("JPEG", exif=turned))
    (ant / "inks.jpg").write_bytes(encoded("JPEG", "CMYK"))
    (ant / "misnamed.JPEG").write_bytes(encoded("PNG"))
    (ant / "._hidden.jpg").write_bytes(b"macOS")
    Image.fromarray(PIXELS).resize((300, 9)).save(ant / "wide.png")
    report = examined(folder(tree))
    files = report["splits"]["train"]["files"]
    # Of `tree`, three of each mode: RGB JPEGs, L, RGBA and P PNGs.
    assert files["formats"] == {"JPEG RGB": 4, "PNG RGB": 2, "PNG L": 3, "PNG RGBA": 3, "PNG P": 3, "JPEG CMYK": 1}
    assert files["changed"] == {
        "grey_to_colour": 3,
        "colour_to_grey": 0,
        "cmyk": 1,
        "palette": 3,
        "transparent_laid_on_white": 3,
        "turned_upright": 1,
        "enlarged": 1,
    }
    assert files["width"] == [30, 30.0, 300]
    assert files["height"] == [9, 24.0, 32]
    assert files["sizes"][0] == [30, 20, 6]
    assert files["largest"] == str(ant / "wide.png")
    assert files["misnamed"] == {"files": 1, "examples": [str(ant / "misnamed.JPEG")]}
    assert report["ignored"] == {"files": 7, "kinds": {".txt": 6, "hidden": 1}}
    grey = examined(folder(tree, channels=1))["splits"]["train"]["files"]["changed"]
    assert (grey["grey_to_colour"], grey["colour_to_grey"]) == (0, 13)


def test_pictures_of_both_splits_and_twins_are_found_whatever_their_file(tree):  # noqa: F811
    pixels = np.random.default_rng(7).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    for place in ("train/ant/same.png", "train/bee/same.bmp", "val/cat/same.ppm"):
        Image.fromarray(pixels).save(tree / place)
    report = examined(folder(tree))
    assert report["in_both"] == {
        "pictures": 1,
        "examples": [[f"{tree}/val/cat/same.ppm", f"{tree}/train/ant/same.png"]],
    }
    assert report["splits"]["train"]["identical"] == {
        "surplus": 1,
        "groups": 1,
        "groups_of_several_classes": 1,
        "examples": [[f"{tree}/train/ant/same.png", f"{tree}/train/bee/same.bmp"]],
    }
    assert report["splits"]["validation"]["identical"]["surplus"] == 0


def test_twins_and_leaks_of_given_prints():
    train = PictureStatistics(index=[0, 1, 2, 5, 7], prints=[9, 2**64 - 1, 9, 9, 2**64 - 1])
    same = twins(train, torch.tensor([0, 1, 0, 0, 0, 0, 0, 0]))
    assert same == {"surplus": 3, "groups": 2, "groups_of_several_classes": 1, "examples": [[1, 7], [0, 2, 5]]}
    assert leaks(train, PictureStatistics(index=[3, 4], prints=[8, 9])) == [(4, 0)]


def test_unreadable_files_are_listed_and_refused_as_training_would(tree):  # noqa: F811
    empty, late = tree / "train" / "ant" / "0.jpg", tree / "train" / "bee" / "0.png"
    empty.write_bytes(b"")
    report = examined(folder(tree, on_error="skip"))
    assert report["refused"] == []
    spoiled = bytearray(late.read_bytes())
    spoiled[len(spoiled) // 2] ^= 255
    late.write_bytes(spoiled)
    report = examined(folder(tree))
    bad = report["splits"]["train"]["unreadable"]
    assert [(b["index"], b["file"], b["class"], b["when"]) for b in bad] == [
        (0, str(empty), "ant", "opened"),
        (4, str(late), "bee", "decoded"),
    ]
    assert bad[0]["reason"].endswith("0.jpg: it is empty")
    assert report["splits"]["train"]["decoded"] == 10
    to_decode = "files of train that have a head and an end but cannot be decoded: 1; remove them"
    assert report["refused"] == [
        "files of train that cannot be read: 1; remove them, or leave them out with data.on_error=skip",
        to_decode,
    ]
    assert examined(folder(tree, on_error="skip"))["refused"] == [to_decode]
    for file in (tree / "train" / "ant").iterdir():
        file.write_bytes(b"")
    assert "no picture of train/ant can be read" in examined(folder(tree, on_error="skip"))["refused"]


def test_a_folder_that_training_refuses_is_reported_whole(tree):  # noqa: F811
    for file in (tree / "train" / "bee").iterdir():
        file.unlink()
    (tree / "val" / "dog").mkdir()
    data = folder(tree, num_classes=4)
    with pytest.raises(ValueError, match="num_classes=4"):
        data.setup()
    report = examined(data)
    assert [sentence.partition("has ")[2][:14] for sentence in report["refused"][:2]] == [
        "no pictures in",
        "val/dog, but n",
    ]
    assert "data.num_classes=4, but the pictures have 3 classes" in report["refused"]
    assert [entry["train"] for entry in report["classes"]] == [4, 0, 4]
    (tree / "val").rename(tree / "elsewhere")
    report = examined(folder(tree))
    assert any("has no validation split" in sentence for sentence in report["warned"])
    assert report["splits"]["validation"]["pictures"] == 2
    json.dumps(report, allow_nan=False)


def test_the_report_is_of_the_classes_and_the_fraction_asked_for(tree):  # noqa: F811
    (tree / "train" / "cat" / "1.png").write_bytes(b"")
    report = examined(folder(tree, classes=["cat", "ant"], num_classes=2, fraction=0.99))
    assert report["classes"] == [{"name": n, "train": 4, "validation": 2} for n in ("cat", "ant")]
    assert report["splits"]["train"]["unreadable"][0]["file"] == str(tree / "train" / "cat" / "1.png")
    assert sum(report["splits"]["train"]["files"]["formats"].values()) == 7


def tiles(sheet, start, top, side, columns):
    array = np.array(sheet)
    return [array[top : top + side, start + c * (side + 3) : start + c * (side + 3) + side] for c in range(columns)]


def test_the_sheet_shows_what_training_draws_first():
    """Digits of one class: on the left the pictures the first epoch meets first, on the right with its coins."""
    data = Digits(image_size=8, channels=1, num_classes=10, batch_size=64, mirror=True, seed=3)
    train = data.survey().train
    sheet = contact_sheet(data, train, classes_shown=10, samples=5)
    left = 24 + int(max(width(str(n)) for n in range(10))) + 12
    right = left + 5 * 67 + 28
    assert sheet.size == (right + 5 * 67 - 3 + 24, 84 + 10 * 67 + 24)
    picks = [p for batch in islice(EndlessOrder(len(train), 16, 3, 0, 1, True), 60) for p in batch]
    for label in (0, 4, 9):
        first = [p for p in picks if train.labels[p.index] == label][:5]
        still, drawn = (tiles(sheet, start, 84 + label * 67, 64, 5) for start in (left, right))
        for pick, a, b in zip(first, still, drawn, strict=True):
            pixels = train.read(pick.index)[0].numpy().repeat(8, 0).repeat(8, 1)
            assert np.array_equal(a[..., 0], pixels)
            assert np.array_equal(b[..., 0], pixels[:, ::-1] if pick.mirrored else pixels)


def width(text):
    return ImageFont.load_default(14).getlength(text)


def test_the_sheet_spreads_its_rows_and_passes_over_what_cannot_be_read(tree):  # noqa: F811
    data = folder(tree, image_size=200, crop="random_resized")
    for number in (0, 2, 3):
        (tree / "train" / "cat" / f"{number}.{'jpg' if number == 2 else 'png'}").write_bytes(b"")
    train = data.survey().train
    sheet, again = (contact_sheet(data, train, classes_shown=2, samples=4) for _ in range(2))
    assert np.array_equal(sheet, again)
    assert (sheet.height - 84 - 24) / (128 + 3) == 2
    cat = tiles(sheet, 24 + int(max(map(width, ("ant", "cat")))) + 12, 84 + 131, 128, 4)
    assert [bool(tile.std() > 10) for tile in cat] == [True, False, False, False]
    for file in train.files():
        file.write_bytes(b"")
    assert contact_sheet(data, train, classes_shown=2, samples=4) is None


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs the command in this process and returns its exit code and what it said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["data.inspect", *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setenv("COLUMNS", "100")
        code = 0
        try:
            runpy.run_module("data.inspect", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code
        text = "".join(capfd.readouterr())
        assert "Traceback" not in text, text
        return code, text

    return run


def test_the_command_writes_and_prints_its_report_then_refuses(tree, tmp_path_factory, command):  # noqa: F811
    out = tmp_path_factory.mktemp("out") / "new"
    options = ["data=folder", f"data.root={tree}", "data.image_size=16", f"out={out}"]
    code, text = command(*options)
    assert code == 0, text
    assert {f.name for f in out.iterdir()} == {"report.json", "classes.csv", "contact_sheet.png"}
    for line in ("Folder: 3 classes, squares of 16 x 16", "palette, converted", "identical to one of train"):
        assert line in text
    assert "\x1b" not in text  # no colours where nobody sees them
    report = json.loads((out / "report.json").read_text())
    assert report["config"]["root"] == str(tree)
    assert list(csv.reader((out / "classes.csv").open()))[1] == ["ant", "4", "2"]
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.mode == "RGB"

    bracketed = tree / "train" / "ant" / "[bold]0.jpg"
    os.rename(tree / "train" / "ant" / "0.jpg", bracketed)
    bracketed.write_bytes(b"")
    code, text = command(*options)
    assert code == 1
    assert f"cannot read the picture {bracketed}: it is empty" in text
    assert text.index("squares of") < text.index("Training would refuse this:") < text.index("contact_sheet.png")
    code, text = command(*options, "data.on_error=skip")
    assert code == 0
    assert "it is empty" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data=digits", "limit=0"], "error: limit must be a whole number from 1 to 1,000,000,000 or null, got 0"),
        (["data=digits", "samples=0"], "error: samples must be a whole number from 1 to 10,000, got 0"),
        (["data=digits", f"out={__file__}"], "must be a folder to write to: "),
        (["data=digits", "out=/dev/null/x"], "error: out=/dev/null/x must be a folder to write to: Not a directory"),
        (
            ["data=folder", "data.root=/nowhere"],
            "error: data.root=/nowhere must be a folder with train/<class>/",
        ),
        (["data=digits", "data.num_classes=7"], "error: data.num_classes=7, but the pictures have 10 classes"),
        ([], "You must specify 'data'"),
    ],
)
def test_mistakes_end_in_one_sentence(command, arguments, said):
    code, text = command(*arguments)
    assert code == 1
    assert said in text


def test_the_sheet_shows_the_augmentation_asked_for(tmp_path, command):
    sheets = {}
    for augment in ("none", "karras"):
        code, text = command("data=digits", f"augment={augment}", "limit=1", f"out={tmp_path / augment}")
        assert code == 0, text
        with Image.open(tmp_path / augment / "contact_sheet.png") as sheet:
            sheets[augment] = np.array(sheet)
    changed = (sheets["none"] != sheets["karras"]).any(axis=(0, 2))  # columns
    middle = len(changed) // 2
    assert not changed[:middle].any()  # as they are
    assert changed[middle:].mean() > 0.5


def test_latents_are_looked_at_and_without_their_autoencoder_nothing_begins(made, vae, tmp_path, command, monkeypatch):
    code, text = command("data=latents", f"data.root={made}", f"out={tmp_path / 'out'}")
    assert code == 0, text
    assert "Latents: 4 classes, squares of 8 x 8" in text
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = Manifest.read(made)
    replace(manifest, plan=replace(manifest.plan, vae="/gone")).write(tmp_path)
    monkeypatch.setattr("data.inspect.examine", None)
    code, text = command("data=latents", f"data.root={tmp_path}", f"out={tmp_path / 'new'}")
    assert code == 1
    assert "error: vae=/gone must be the folder of a diffusers AutoencoderKL" in text


def test_class_folders_without_one_picture_are_still_reported(tree, tmp_path_factory, command):  # noqa: F811
    for file in (tree / "train").rglob("*.[jp][pn]g"):
        file.rename(file.with_suffix(".heic"))
    out = tmp_path_factory.mktemp("out")
    code, text = command("data=folder", f"data.root={tree}", f"out={out}")
    assert code == 1
    assert "no pictures in train/ant, train/bee, train/cat (files of other endings: .heic 12; pictures end in " in text
    assert "(.heic 12, .txt 6)" in text
    assert {f.name for f in out.iterdir()} == {"report.json", "classes.csv"}


def test_many_classes_are_printed_by_their_extremes(capsys):
    data = Digits(image_size=8, channels=1, num_classes=10, batch_size=64)
    report = examined(data, limit=10)
    report["classes"] = [{"name": f"class {n:03}", "train": 100 + n, "validation": n} for n in range(99)]
    show(report, Console(width=60, markup=False))
    lines = capsys.readouterr().out.splitlines()
    assert sum("class 0" in line for line in lines) == 11
    for name in ("class 000", "class 004", "class 049 (the median)", "class 094", "class 098"):
        assert any(line.startswith(name) for line in lines), name
    assert max(map(len, lines)) <= 60
