"""Files of pictures: which there are below a folder, what is wrong with one, and how any of them becomes 8-bit."""

from __future__ import annotations

import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from typing import NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.Image import Transpose

from data.hidden import is_hidden, is_note
from dit.checks import printable

# The endings of pictures and their formats. What is in a file may also be of two more; Pillow knows 40 others, of which
# some start programs: they stay closed.
ENDINGS = {
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    **{".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".ppm": "PPM"},
}
FORMATS = (*dict.fromkeys(ENDINGS.values()), "TIFF", "GIF")

MOST_PIXELS = 178_956_970  # of a picture: 4 bytes each while it is decoded, 0.7 GB
LARGE = 1 << 25  # pixels; a larger picture is reduced as it is decoded, and a process decodes one such at a time
_MOST_BYTES = 1 << 30  # of a file; so many pixels take half of it uncompressed
_DEEPEST = 100  # folders below each other
_ONE_LARGE = Lock()

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
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
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
    """All of it in the order of the names, links followed; what `is_hidden` is ignored."""
    listing = Listing([], [], [])
    _list(folder, listing, ())
    return listing


def _list(folder: Path, listing: Listing, above: tuple[str, ...]) -> None:
    real = os.path.realpath(folder)
    cannot = f"cannot list the folder {printable(str(folder))}"
    if real in above:
        listing.unlisted.append(f"{cannot}: it links to a folder it lies in")
        return
    if len(above) > _DEEPEST:
        listing.unlisted.append(f"{cannot}: it lies more than {_DEEPEST} folders deep")
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted((e.name, e.is_dir() if not e.is_symlink() else os.path.isdir(e)) for e in entries)
    except OSError as error:
        listing.unlisted.append(f"{cannot}: {error.strerror or error}")
        return
    for name, is_folder in found:
        path = folder / name
        if is_hidden(name):
            listing.ignored.append(path)
        elif is_folder:  # also one named like a picture
            _list(path, listing, (*above, real))
        else:
            (listing.pictures if is_picture(name) else listing.ignored).append(path)


def is_picture(name: str) -> bool:
    """By its ending."""
    return name.lower().endswith(tuple(ENDINGS))


def unread(ignored: Iterable[Path]) -> dict[str, int]:
    """Of the files beside pictures, those that may have been meant to be some: how many of each ending."""
    names = (file.name for file in ignored if not is_hidden(file.name) and not is_note(file.name))
    return dict(Counter(ending(name) for name in names).most_common())


def counted(kinds: dict[str, int]) -> str:
    """Of some endings and how many files have them, the first few; empty where there are none."""
    more = f" and {len(kinds) - 8} more endings" if len(kinds) > 8 else ""
    return ", ".join(f"{kind} {count:,}" for kind, count in list(kinds.items())[:8]) + more


def ending(name: str) -> str:
    """Of a file, printable."""
    return printable(os.path.splitext(name)[1].lower()[:20]) or "no ending"


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
                with _decoded(picture, 1):
                    pass
    except ValueError as error:
        return Look(fault=str(error))
    return Look(*size, kind, mode, *told)


def read_picture(file: Path, mode: str, side: int | None = None) -> Image.Image:
    """The picture upright, on white where it is transparent, in mode L or RGB.

    side: what will be made of it has sides of so many pixels. A picture of more than LARGE pixels is then reduced by a
    whole factor, so that both of its sides keep at least 4 `side` pixels; others are as they are, to the bit.

    Raises ValueError naming file and reason.
    """
    with _opened(file) as picture, _decoded(picture, side) as factor:
        turn = _TURNS.get(_orientation(picture))
        plain = _plain(picture, mode) if factor == 1 else _reduced(picture, mode, factor)
    return plain if turn is None else plain.transpose(turn)


@contextmanager
def _decoded(picture: Image.Image, side: int | None) -> Iterator[int]:
    """Decodes a picture, and yields the factor by which it is still to be reduced. While a large one is held, no other
    is: threads take as many pictures at once as there are cores."""
    large = picture.width * picture.height > LARGE
    with _ONE_LARGE if large else nullcontext():
        if large and side:
            picture.draft(None, (4 * side, 4 * side))  # a JPEG needs no memory for what is left out
        picture.load()
        yield max(1, min(picture.size) // (4 * side)) if large and side else 1


def _plain(picture: Image.Image, mode: str) -> Image.Image:
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return picture.convert(mode)


def _reduced(picture: Image.Image, mode: str, factor: int) -> Image.Image:
    """Box averages of `factor` x `factor` pixels, made of a strip at a time: only the strip is held a second time."""
    width, height = picture.width // factor, picture.height // factor
    reduced = Image.new(mode, (width, height))
    tall = max(1, (1 << 22) // (picture.width * factor))
    for top in range(0, height, tall):
        rows = min(tall, height - top)
        strip = picture.crop((0, top * factor, width * factor, (top + rows) * factor))
        reduced.paste(_plain(strip, mode).reduce(factor), (0, top))
    return reduced


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
        there = file.stat()
        if not S_ISREG(there.st_mode):
            raise ValueError("it is not a regular file")  # reading a pipe would wait for ever
        if there.st_size > _MOST_BYTES:
            raise ValueError(f"it has {there.st_size:,} bytes, and at most {_MOST_BYTES:,} are read")
        with Image.open(file, "r", FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"mode {picture.mode} has more than 8 bits a channel; convert it to 8")
            yield picture
    except Exception as error:  # Pillow's readers raise whatever their parsers meet in a broken file
        raise ValueError(f"cannot read the picture {printable(str(file))}: {_reason(file, error)}") from error


def _reason(file: Path, error: Exception) -> str:
    match error:
        case PermissionError():
            return "this user is not permitted to"
        case FileNotFoundError() if file.is_symlink():
            return f"it is a link to {printable(os.readlink(file))}, which is not there"
        case UnidentifiedImageError():
            return "Pillow finds no picture in it" if file.stat().st_size else "it is empty"
        case Image.DecompressionBombError():
            return f"it has more than {MOST_PIXELS:,} pixels; make it smaller"
        case OSError() if error.strerror:
            return error.strerror
    return printable(str(error)) or type(error).__name__


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
