"""Pictures and folders of strangers: what may be opened, how much memory it takes, what is left out and in which words,
and what names may do to a terminal, a table and a link."""

import csv
import io
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from data import Cifar, Digits, Folder, Karras, Latents, Synthetic, files, folder_classes, real_of_folder
from data.crop import area, center
from data.files import list_pictures, look, read_picture
from data.inspect import contact_sheet, sheet
from dit.checks import harmless
from tests.data.test_bad_input import PIXELS, encoded, folder
from tests.data.test_data import tree  # noqa: F401
from tests.data.test_inspect import command  # noqa: F401

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["x.jpg", "x.PNG", "x.tif", "x.gif", "x.webp"])
def test_postscript_called_a_picture_starts_no_program(name, tmp_path, monkeypatch):
    started = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / name).write_bytes(POSTSCRIPT)
    assert "Pillow finds no picture in it" in look(tmp_path / name).fault
    with pytest.raises(ValueError, match="Pillow finds no picture in it"):
        read_picture(tmp_path / name, "RGB")
    assert not started.exists()


def test_formats_of_a_list_are_read_whatever_the_ending_and_no_others(tmp_path):
    for kind in files.FORMATS:
        (tmp_path / "x.jpg").write_bytes(encoded(kind))
        assert look(tmp_path / "x.jpg")[:3] == (30, 20, kind)
    for kind in ("ICO", "PCX", "TGA", "JPEG2000", "SGI"):
        (tmp_path / "x.png").write_bytes(encoded(kind))
        assert "Pillow finds no picture in it" in look(tmp_path / "x.png").fault


def smooth(width, height):
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("GIF", "P")],
)
def test_of_a_large_picture_little_is_kept(kind, mode, tmp_path, monkeypatch):
    """Decoded in a smaller size or reduced by box averages, it makes nearly the same square; small ones are as ever."""
    file, exif = tmp_path / "x.png", Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    smooth(900, 600).convert(mode).save(file, kind, **({} if kind == "GIF" else {"exif": exif}))
    whole = read_picture(file, "RGB")
    assert read_picture(file, "RGB", 8).tobytes() == whole.tobytes()
    monkeypatch.setattr(files, "LARGE", 900 * 600 - 1)
    assert read_picture(file, "RGB").tobytes() == whole.tobytes()
    decoded, plain = [], files._plain
    monkeypatch.setattr(files, "_plain", lambda strip, mode: decoded.append(strip.width) or plain(strip, mode))
    less = read_picture(file, "RGB", 8)
    assert max(decoded) < 120 or kind != "JPEG"
    assert 4 * 8 <= min(less.size) < 80
    assert less.width / less.height == pytest.approx(whole.width / whole.height, rel=0.1)
    square, expected = center(less, 8).float(), center(whole, 8).float()
    assert (square - expected).abs().mean() < (8 if mode == "1" else 3)


def test_threads_hold_one_large_picture_at_a_time(tmp_path, monkeypatch):
    """Until it is reduced; also one that turns out to be broken lets the next one in."""
    pictures = [tmp_path / f"{number}.bmp" for number in range(3)]
    for file in pictures:
        Image.fromarray(PIXELS).save(file)
    held, reduced = [], files._reduced
    monkeypatch.setattr(files, "LARGE", 500)
    monkeypatch.setattr(files, "_reduced", lambda *a: held.append(files._ONE_LARGE.locked()) or reduced(*a))
    assert [p.size for p in files.in_threads(lambda file: read_picture(file, "RGB", 2), pictures)] == [(15, 10)] * 3
    assert held == [True] * 3
    pictures[0].write_bytes(pictures[0].read_bytes()[:300])
    with pytest.raises(ValueError, match="truncated"):
        read_picture(pictures[0], "RGB", 2)
    assert not files._ONE_LARGE.locked()


@pytest.mark.parametrize("crop", [center, area])
@pytest.mark.parametrize("turn", [False, True])
def test_of_a_strip_only_the_middle_is_enlarged(crop, turn, monkeypatch):
    """A picture of 1 x 100,000 in squares of 64 would have 410 million pixels."""
    strip = np.zeros((1, 100_001, 3), dtype=np.uint8)
    strip[:, 49_950:50_051] = (200, 100, 50)
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: sizes.append(self.size) or resize(self, *a, **k))
    square = crop(Image.fromarray(strip.swapaxes(0, 1) if turn else strip), 64)
    assert torch.equal(square.flatten(1).unique(dim=1).flatten(), torch.tensor([200, 100, 50], dtype=torch.uint8))
    assert all(max(size) <= 64 for size in sizes)


def test_a_strip_is_cut_before_it_becomes_a_tensor(monkeypatch):
    shapes = []
    monkeypatch.setattr("data.crop.F.center_crop", lambda pixels, size: shapes.append(tuple(pixels.shape)))
    center(Image.new("RGB", (100_000, 2)), 16)
    assert shapes == [(3, 16, 512)]


def test_too_many_bytes_are_refused_before_they_are_read(tmp_path, monkeypatch):
    file = tmp_path / "x.webp"
    file.write_bytes(encoded("WEBP"))
    os.truncate(file, (1 << 30) + 1)
    monkeypatch.setattr(Image, "open", None)
    assert look(file).fault.endswith("it has 1,073,741,825 bytes, and at most 1,073,741,824 are read")


def test_folders_below_folders_end_somewhere(tmp_path):
    deep = tmp_path
    for _ in range(102):
        deep /= "d"
    deep.mkdir(parents=True)
    (sentence,) = list_pictures(tmp_path).unlisted
    assert sentence.endswith("it lies more than 100 folders deep")


SYSTEM = (
    "@eaDir",
    "#recycle",
    "lost+found",
    "__MACOSX",
    "$RECYCLE.BIN",
    "$Recycle.Bin",
    "System Volume Information",
    ".AppleDouble",
    ".Trash-1000",
    "@Recently-Snapshot",
    "@Recycle",
    "#snapshot",
    "Network Trash Folder",
    "~syncthing~x",
    "Thumbs.db",
)


def test_what_systems_put_beside_pictures_is_no_class_and_no_picture(tree, recwarn):  # noqa: F811
    before = [str(file) for file in list_pictures(tree).pictures]
    for place in (tree / "train", tree / "val", tree / "train" / "ant"):
        for name in SYSTEM:
            (place / name).mkdir()
            (place / name / "x.png").write_bytes(encoded("PNG"))
    (tree / "train" / "._x.png").write_bytes(b"")
    (tree / "train" / "bee" / "Icon\r").write_bytes(b"")
    data = folder(tree)
    data.prepare_data()
    data.setup()
    assert data.class_names == folder_classes(tree) == ["ant", "bee", "cat"]
    assert [str(file) for file in list_pictures(tree).pictures] == before
    assert not [str(w.message) for w in recwarn if w.category is UserWarning]


def test_pictures_of_endings_that_are_not_read_are_told_by_number(tree):  # noqa: F811
    for name in ("a.heic", "b.HEIC", "c.avif", "d", "e.\x1b[31m", "f.txt", "g.json"):
        (tree / "train" / "ant" / name).write_bytes(b"x")
    (tree / "train" / "bee" / "x.gif").write_bytes(encoded("GIF"))
    said = (
        r"train has files that are not read: \.heic 2, \.avif 1, no ending 1, \.\\x1b\[31m 1, \.gif 1; pictures end in "
    )
    data = folder(tree)
    with pytest.warns(UserWarning, match=said):
        data.setup()
    assert torch.bincount(data.train.labels).tolist() == [4, 4, 4]
    for file in list_pictures(tree / "train" / "ant").pictures:
        file.rename(file.with_suffix(".npy"))
    said = r"no pictures in train/ant \(files of other endings: \.npy 4, \.heic 2, .*; pictures end in .*; remove what"
    with pytest.raises(ValueError, match=said):
        folder(tree).setup()


def test_a_folder_of_samples_in_other_endings_is_told_too(tmp_path):
    (tmp_path / "x.avif").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds no pictures but files of other endings: \.avif 1$"):
        real_of_folder(tmp_path)
    (tmp_path / "x.png").write_bytes(encoded("PNG"))
    with pytest.warns(UserWarning, match=r"has files that are not read: \.avif 1$"):
        assert len(real_of_folder(tmp_path)) == 1


NAMES = ["caf\udce9", "new\nline", "\x1b[31mred", "\u202elanigiro", "=1+1", "@x", "-5", "[red]x", "\ta"]


def test_names_do_nothing_to_a_terminal_and_a_table(tmp_path, command):  # noqa: F811
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in NAMES:
            (tmp_path / split / name).mkdir(parents=True)
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
            (tmp_path / split / name / "\x1b]0;x\x07\n.png").write_bytes(buffer.getvalue())
    (tmp_path / "train" / NAMES[1] / "broken\x1b[2J.png").write_bytes(b"")
    out = tmp_path / "out"
    code, text = command("data=folder", f"data.root={tmp_path}", "data.image_size=16", f"out={out}")
    assert code == 1  # of the broken one
    assert not {c for c in text if not c.isprintable()} - {"\n"}
    assert r"train/new\nline/broken\x1b[2J.png: it is empty" in text
    assert "[red]x" in text
    report = json.loads((out / "report.json").read_text())
    assert sorted(entry["name"] for entry in report["classes"]) == sorted(NAMES)
    with (out / "classes.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.reader(table))
    assert {row[0] for row in rows[1:]} == {
        *(r"caf\udce9", r"new\nline", r"\x1b[31mred", r"\u202elanigiro", "'=1+1", "'@x", "-5", "[red]x", r"\ta")
    }
    assert (out / "contact_sheet.png").stat().st_size > 1000


def test_names_on_a_sheet_are_one_line():
    tiles = [[Image.new("RGB", (8, 8))]]
    drawn = [sheet._laid_out("", [name], tiles, tiles, 1) for name in ("a\n\x1bb\udce9", r"a\n\x1bb\udce9")]
    assert drawn[0] == drawn[1]


def test_cells_of_tables_are_no_formulas_and_numbers_stay():
    assert [harmless(text) for text in ("=A1", " +x", "-x", "@SUM(1)", "\uff1d1")] == [
        "'=A1",
        "' +x",
        "'-x",
        "'@SUM(1)",
        "'\uff1d1",
    ]
    assert [harmless(text) for text in ("-5", "+1e3", "1.0", "a=b", "")] == ["-5", "+1e3", "1.0", "a=b", ""]


def test_a_report_is_not_written_through_links(tree, tmp_path_factory, command):  # noqa: F811
    out, theirs = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("theirs")
    for name in ("report.json", "classes.csv", "contact_sheet.png"):
        (theirs / name).write_text("precious")
        (out / name).symlink_to(theirs / name)
    code, text = command("data=folder", f"data.root={tree}", "data.image_size=16", f"out={out}")
    assert code == 0, text
    assert {file.read_text() for file in theirs.iterdir()} == {"precious"}
    assert not any(file.is_symlink() for file in out.iterdir())


def test_a_sheet_is_as_wide_as_what_is_there(monkeypatch):
    data = Digits(image_size=8, channels=1, num_classes=10, batch_size=64, fraction=0.02)
    train = data.survey().train
    few, many = (contact_sheet(data, train, classes_shown=2, samples=n) for n in (3, 10**9))
    assert (few.size, many.size) == (few.size, few.size)
    monkeypatch.setattr("data.inspect.sheet._MOST_TILES", 11)
    with pytest.raises(ValueError, match="classes_shown and samples ask for 12 tiles of the sheet, and at most 11 fit"):
        contact_sheet(data, train, classes_shown=2, samples=3)


SIZES = {"image_size": 8, "channels": 1, "num_classes": 10, "batch_size": 64}
NO_NUMBERS = (-1, True, 1.5, float("nan"), "2", [1], {}, 10**400)


@pytest.mark.parametrize(
    "key", [*SIZES, "validation_batch_size", "validation_images", "num_workers", "seed", "pictures"]
)
def test_numbers_of_the_data_are_whole(key):
    kind = Synthetic if key == "pictures" else Digits
    values = NO_NUMBERS[:-1] if key not in ("seed",) else NO_NUMBERS
    values += () if key in ("num_workers", "seed") else (0,)
    for value in values if key == "validation_images" else (*values, None):
        with pytest.raises(
            ValueError, match=rf"^data\.{key} must be a whole number (of at least|from 0 to) .*, got [^\n]*$"
        ):
            kind(**{**SIZES, key: value})


def test_all_validation_pictures_are_taken_where_no_number_is_given():
    data = Digits(**SIZES, validation_images=None)
    data.setup()
    assert sum(len(batch.index) for batch in data.val_dataloader()) == 360


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Digits(**SIZES, fraction=float("nan")), r"data\.fraction must be above 0 and at most 1, got nan"),
        (lambda: Digits(**SIZES, fraction=True), r"data\.fraction must be above 0 and at most 1, got True"),
        (lambda: Digits(**SIZES, mirror="yes"), r"data\.mirror must be true or false, got 'yes'"),
        (lambda: Digits(**SIZES, classes="abc"), r"data\.classes must be a list of class names, got 'abc'"),
        (lambda: Digits(**SIZES, augment={"x": 1}), r"data\.augment must be null or what augment=karras makes, got \{"),
        (lambda: Digits(**SIZES, storage=[]), r"data\.storage of Digits must be one of memory, device, got \[\]"),
        (lambda: Folder("x", **SIZES, crop=[]), r"data\.crop must be one of center, area, random_resized, got \[\]"),
        (lambda: Folder(None, **SIZES), r"data\.root must be a path, got None"),
        (lambda: Folder("", **SIZES), r"data\.root must be a path, got ''"),
        (lambda: Cifar(3, **SIZES), r"data\.root must be a path, got 3"),
        (lambda: Cifar("x", variant=[], **SIZES), r"data\.variant of CIFAR must be one of cifar10, cifar100, got \[\]"),
        (lambda: Cifar("x", download=1, **SIZES), r"data\.download must be true or false, got 1"),
        (lambda: Latents(None, **SIZES), r"data\.root must be a path, got None"),
        (lambda: folder_classes(None), r"data\.root must be a path, got None"),
        (lambda: folder_classes("~nobody-of-that-name/x"), r"data\.root=~nobody-of-that-name/x must be a folder with"),
        (lambda: Karras(dim=9.0), r"data\.augment\.dim must be 9, as many numbers tell what was done, got 9\.0"),
        (lambda: Karras(rotation=float("nan")), r"data\.augment\.rotation must be in \[0, 1\], got nan"),
    ],
)
def test_values_that_cannot_be_are_one_sentence(build, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        build()


def test_a_tilde_is_the_home_directory(tree, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HOME", str(tree.parent))
    root = f"~/{tree.name}"
    assert folder_classes(root) == ["ant", "bee", "cat"]
    assert folder(root).root == tree
    assert Cifar(root, **SIZES).root == tree
