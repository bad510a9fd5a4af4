"""Files of pictures: which there are below a folder, what is wrong with one, and how any of them becomes 8-bit."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.Image import Transpose

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")

_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_EXIF = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # where Pillow keeps what tells the orientation
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# On broken EXIF and on large pictures: they come in the middle of training and do not name the file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

T = TypeVar("T")
R = TypeVar("R")


class Listing(NamedTuple):
    """What lies below a folder: pictures by their ending, files that are none or are hidden, folders that could not be
    listed, each told in a sentence."""

    pictures: list[Path]
    ignored: list[Path]
    unlisted: list[str]


def list_pictures(folder: Path) -> Listing:
    """All of it in the order of the names, links followed; what is hidden, such as macOS's ._x.jpg, is ignored."""
    listing = Listing([], [], [])
    _list(folder, listing, ())
    return listing


def _list(folder: Path, listing: Listing, above: tuple[str, ...]) -> None:
    real = os.path.realpath(folder)
    try:
        with os.scandir(folder) as entries:
            found = sorted((e.name, e.is_dir() if not e.is_symlink() else os.path.isdir(e)) for e in entries)
    except OSError as error:
        listing.unlisted.append(f"cannot list the folder {folder}: {error.strerror or error}")
        return
    if real in above:
        listing.unlisted.append(f"cannot list the folder {folder}: it links to a folder it lies in")
        return
    for name, is_folder in found:
        path = folder / name
        if name.startswith("."):
            listing.ignored.append(path)
        elif is_folder:  # also one named like a picture
            _list(path, listing, (*above, real))
        else:
            (listing.pictures if name.lower().endswith(ENDINGS) else listing.ignored).append(path)


class Look(NamedTuple):
    """What the header of a file tells, or what is wrong with the file. turned: not stored upright."""

    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    transparent: bool = False
    turned: bool = False
    fault: str | None = None


def look(file: Path) -> Look:
    """Opens a file and seeks its end, without decoding it if it is whole: about 0.1 ms for a small one."""
    try:
        with _opened(file) as picture:
            kind, size, mode = picture.format or "", picture.size, picture.mode
            told = picture.has_transparency_data, _orientation(picture) in _TURNS
            if not _ends(file, kind):
                picture.load()
    except ValueError as error:
        return Look(fault=str(error))
    return Look(*size, kind, mode, *told)


def read_picture(file: Path, mode: str) -> Image.Image:
    """The picture upright, on white where it is transparent, in mode L or RGB. ValueError naming file and reason."""
    with _opened(file) as picture:
        picture.load()
        turn = _TURNS.get(_orientation(picture))
        upright = picture if turn is None else picture.transpose(turn)
        if upright.has_transparency_data:
            colours = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
        return upright.convert(mode)


def in_threads(function: Callable[[T], R], items: Iterable[T], ahead: int = 256) -> Iterator[R]:
    """The results in the order of the items, computed no more than `ahead` of the caller, who may stop at any."""
    threads, waiting = ThreadPoolExecutor(), deque[Future[R]]()
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        if not file.is_file() and file.exists():
            raise ValueError("it is not a regular file")  # reading a pipe would wait for ever
        with Image.open(file) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"mode {picture.mode} has more than 8 bits a channel; convert it to 8")
            yield picture
    except Exception as error:  # Pillow's readers raise whatever their parsers meet in a broken file
        raise ValueError(f"cannot read the picture {file}: {_reason(file, error)}") from error


def _reason(file: Path, error: Exception) -> str:
    match error:
        case PermissionError():
            return "this user is not permitted to"
        case FileNotFoundError() if file.is_symlink():
            return f"it is a link to {os.readlink(file)}, which is not there"
        case UnidentifiedImageError():
            return "Pillow finds no picture in it" if file.stat().st_size else "it is empty"
        case OSError() if error.strerror:
            return error.strerror
    return str(error) or type(error).__name__


def _ends(file: Path, kind: str) -> bool:
    """Whether a file that could be opened has its end, as far as that can be seen without decoding. One that was cut
    short has none; a whole one may have bytes behind it, and then only decoding tells."""
    if kind == "WEBP":  # Pillow opens no other
        return True
    with file.open("rb") as content:
        content.seek(-min(16, os.fstat(content.fileno()).st_size), os.SEEK_END)
        return kind in _END_MARKS and _END_MARKS[kind] in content.read()


def _orientation(picture: Image.Image) -> int:
    """As EXIF or XMP tells it; 1, upright, where they tell nothing or are broken."""
    if not _EXIF & picture.info.keys():  # getexif of a PNG would decode it to find out
        return 1
    try:
        return picture.getexif().get(Base.Orientation, 1)
    except Exception:  # a broken EXIF is no broken picture
        return 1
