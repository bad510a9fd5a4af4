"""Odd files and odd folders: what is converted and how, what is refused in which words, what is only warned of."""

import io
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from data import Folder, files
from data.files import list_pictures, look, read_picture
from tests.data.test_data import tree  # noqa: F401

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
PIXELS[:, :15] = 0  # dark, so that black would hide what white shows


def folder(root, **changes):
    return Folder(**{"root": str(root), "image_size": 16, "channels": 3, "num_classes": 3, "batch_size": 4, **changes})


def encoded(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def make_pipe(file):
    file.unlink()
    os.mkfifo(file)


def make_link(file):
    file.unlink()
    file.symlink_to("gone.jpg")


def cut(kind):
    return lambda file: file.write_bytes(encoded(kind)[:-40] + bytes(20))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.write_bytes(b""), "it is empty"),
        (lambda file: file.write_text("not a picture"), "Pillow finds no picture in it"),
        (cut("JPEG"), "image file is truncated"),
        (cut("PNG"), "unrecognized data stream|broken|truncated"),
        (cut("BMP"), "image file is truncated"),
        (cut("PPM"), "image file is truncated"),
        (lambda file: file.write_bytes(encoded("WEBP")[:-40]), "could not create decoder object|failed to read"),
        (make_link, r"it is a link to gone\.jpg, which is not there"),
        (make_pipe, "it is not a regular file"),
    ],
    ids=["empty", "text", "jpeg", "png", "bmp", "ppm", "webp", "link", "pipe"],
)
def test_a_spoiled_file_is_named_with_its_reason_and_a_way_on(tree, spoil, reason):  # noqa: F811
    file = tree / "train" / "ant" / "0.jpg"
    spoil(file)
    sentence = rf"cannot read the picture {file}: .*({reason})"
    with pytest.raises(ValueError, match=sentence):
        read_picture(file, "RGB")
    with pytest.raises(ValueError, match=sentence + r".*; data\.on_error=skip leaves such files out, .*data\.inspect"):
        folder(tree).prepare_data()
    data = folder(tree, on_error="skip")
    data.prepare_data()
    with pytest.warns(UserWarning, match=rf"on_error=skip leaves out 1 of 12 pictures .*: {sentence}"):
        data.setup()
    assert len(data.train) == 11
    assert file not in data.train.files()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF"])
def test_the_check_before_training_finds_every_cut_that_decoding_finds(kind, tmp_path):
    file, whole = tmp_path / "x.jpg", encoded(kind)
    assert len(whole) > 200
    for length in [*range(0, len(whole) - 20, len(whole) // 50), *range(len(whole) - 20, len(whole) + 1)]:
        file.write_bytes(whole[:length])
        try:
            read_picture(file, "RGB")
            readable = True
        except ValueError:
            readable = False
        assert (look(file).fault is None) == readable, length
    assert readable


def test_what_only_decoding_finds_stops_training_by_name_also_where_files_are_skipped(tree):  # noqa: F811
    file = tree / "train" / "bee" / "0.png"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 255
    file.write_bytes(whole)
    data = folder(tree, on_error="skip")
    data.setup()
    with pytest.raises(ValueError, match=rf"cannot read the picture {file}: "):
        data.train.read(data.train.files().index(file))


def test_too_many_pixels_are_refused_by_name(tree, monkeypatch):  # noqa: F811
    monkeypatch.setattr(files, "MOST_PIXELS", 599)
    file = tree / "train" / "ant" / "0.jpg"
    with pytest.raises(ValueError, match=rf"picture {file}: it has more than 599 pixels; make it smaller; data\.on"):
        folder(tree).prepare_data()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_other_modes_become_what_pillow_makes_of_them(mode, tmp_path):
    source = Image.fromarray(PIXELS).convert(mode)
    file = tmp_path / "x.tif"
    source.save(file)
    for wanted in ("RGB", "L"):
        assert np.array_equal(read_picture(file, wanted), source.convert(wanted))


@pytest.mark.parametrize("alpha", [0, 51, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pictures_are_laid_on_white(mode, alpha, tmp_path):
    """white + (colour - white) alpha / 255, to a rounding; nothing changes where nothing is transparent."""
    source = Image.fromarray(PIXELS).convert(mode)
    source.putalpha(alpha)
    source.save(tmp_path / "x.png")
    colour = np.array(source.convert("RGBA").convert("RGB"), dtype=float)
    read = np.array(read_picture(tmp_path / "x.png", "RGB"), dtype=float)
    assert np.abs(read - (255 + (colour - 255) * alpha / 255)).max() <= (1 if alpha == 51 else 0)


def test_a_transparent_colour_of_a_palette_is_white_too(tmp_path):
    source = Image.fromarray(np.array([[0, 1]] * 2, dtype=np.uint8), "P")
    source.putpalette([0, 0, 0, 200, 10, 20])
    source.save(tmp_path / "p.png", transparency=0)
    Image.fromarray(np.array([[0, 90]] * 2, dtype=np.uint8)).save(tmp_path / "l.png", transparency=0)
    assert np.array(read_picture(tmp_path / "p.png", "RGB"))[0].tolist() == [[255, 255, 255], [200, 10, 20]]
    assert np.array(read_picture(tmp_path / "l.png", "L"))[0].tolist() == [255, 90]


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_turned_upright(turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    for name in ("x.jpg", "x.png", "x.webp"):
        Image.fromarray(PIXELS).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as stored:
            assert np.array_equal(read_picture(tmp_path / name, "RGB"), ImageOps.exif_transpose(stored))
        assert look(tmp_path / name).turned == (turn > 1)


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0", b"Exif\0\0MM\0*\0\0\xff\xff"],
)
def test_imagenets_oddities_are_pictures(exif, tmp_path):
    """A PNG called JPEG, a CMYK JPEG, and JPEGs whose EXIF is broken: read as they are, and in silence."""
    (tmp_path / "n02105855_2933.JPEG").write_bytes(encoded("PNG"))
    (tmp_path / "n01739381_1309.JPEG").write_bytes(encoded("JPEG", "CMYK"))
    (tmp_path / "n04152593_17460.JPEG").write_bytes(encoded("JPEG", exif=b"Exif\0\0" + exif, dpi=(72, 72)))
    # With a density Pillow does not look into EXIF for one, and so meets the fault only when asked for the orientation.
    plain = Image.open(io.BytesIO(encoded("JPEG")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
        assert all(look(file).fault is None for file in list_pictures(tmp_path).pictures)
        assert np.array_equal(read_picture(tmp_path / "n02105855_2933.JPEG", "RGB"), PIXELS)
        assert np.array_equal(read_picture(tmp_path / "n04152593_17460.JPEG", "RGB"), plain)
        inks = np.array(read_picture(tmp_path / "n01739381_1309.JPEG", "RGB"), dtype=float)
    assert abs(inks[:, 3:12].mean()) < 20  # the dark half is dark, not inverted
    assert inks[:, 18:].mean() > 80


def test_links_are_followed_and_what_is_hidden_is_not_a_picture(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for file in ("b.JPG", "a.png", "._a.png", "notes.txt", "deep/er/c.Jpeg", "x.jpg/inside.png", ".thumbs/d.png", "b"):
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        (here / file).write_bytes(b"")
    there.mkdir()
    (there / "e.webp").write_bytes(b"")
    (here / "linked").symlink_to(there)
    listing = list_pictures(here)
    names = [str(file.relative_to(here)) for file in listing.pictures]
    assert names == ["a.png", "b.JPG", "deep/er/c.Jpeg", "linked/e.webp", "x.jpg/inside.png"]
    assert names == sorted(names)
    assert {file.name for file in listing.ignored} == {"._a.png", ".thumbs", "b", "notes.txt"}
    assert listing.unlisted == []
    (there / "round").symlink_to(here)
    assert list_pictures(here).unlisted == [
        f"cannot list the folder {here}/linked/round: it links to a folder it lies in"
    ]


def test_missing_permissions_are_told_in_one_sentence(tree, monkeypatch):  # noqa: F811
    """As if not run by root, whom no permission stops."""
    file, closed = tree / "train" / "ant" / "0.jpg", tree / "val" / "bee"
    open_picture, scan = Image.open, os.scandir

    def refusing(path, *rest):
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return open_picture(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", refusing)
        with pytest.raises(ValueError, match=rf"cannot read the picture {file}: this user is not permitted to; "):
            folder(tree).prepare_data()

    def not_listing(path="."):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", not_listing)
    for on_error in ("raise", "skip"):  # nobody can say what is left out of a folder that cannot be listed
        with pytest.raises(ValueError, match=f"cannot list the folder {closed}: Permission denied"):
            folder(tree, on_error=on_error).setup()


def test_classes_of_one_split_only(tree):  # noqa: F811
    for file in (tree / "val" / "cat").iterdir():
        file.unlink()
    with pytest.warns(UserWarning, match=r"no pictures in val/cat: validation tells nothing of these classes"):
        folder(tree).setup()
    (tree / "val" / "cat").rmdir()
    with pytest.warns(UserWarning, match=r"no pictures in val/cat: validation tells nothing of these classes"):
        folder(tree).setup()
    folder(tree, classes=["ant", "bee"], num_classes=2).setup()  # in silence
    (tree / "val" / "dog").mkdir()
    (tree / "val" / ".cache").mkdir()
    for step in ("prepare_data", "setup"):
        with pytest.raises(ValueError, match=r"has val/dog, but no such classes in train/; both must have the same"):
            getattr(folder(tree), step)()


def test_classes_without_training_pictures_are_refused_unless_not_asked_for(tree):  # noqa: F811
    for name in ("ant", "bee"):
        for file in (tree / "train" / name).iterdir():
            file.unlink()
    with pytest.raises(ValueError, match=r"has no pictures in train/ant, train/bee; remove what is no class"):
        folder(tree).setup()
    (tree / "train" / "ant" / "0.png").write_bytes(encoded("PNG"))
    data = folder(tree, classes=["cat", "ant"], num_classes=2)
    data.setup()
    assert torch.bincount(data.train.labels).tolist() == [4, 1]


def test_pictures_outside_of_class_folders_are_warned_of(tree):  # noqa: F811
    (tree / "train" / "loose.PNG").write_bytes(encoded("PNG"))
    with pytest.warns(UserWarning, match=r"train has pictures outside of its class folders, which are not used: 1"):
        folder(tree).setup()
