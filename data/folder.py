"""Any tree of root/split/class/picture, ImageNet's layout included."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from data.crop import CROPS, Crop
from data.order import Pick
from data.pictures import Pictures
from data.split import Split

_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm"}
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_VALIDATION_NAMES = ("val", "validation", "test")


class FolderSplit(Split):
    """The pictures of one split, decoded on demand and made square by `crop`."""

    def __init__(self, root: Path, class_names: list[str], image_size: int, channels: int, crop: Crop):
        self.root, self._image_size, self._mode, self._crop = root, image_size, {1: "L", 3: "RGB"}[channels], crop
        self._files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(class_names):
            files = sorted(f for f in (root / name).rglob("*") if f.suffix.lower() in _ENDINGS)
            self._files += files
            labels += [label] * len(files)
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def images(self, picks: Sequence[Pick]) -> Tensor:
        squares = [self._square(pick) for pick in picks]
        return torch.stack([s.flip(-1) if pick.mirrored else s for s, pick in zip(squares, picks, strict=True)])

    def _square(self, pick: Pick) -> Tensor:
        with _opened(self._files[pick.index]) as picture:
            upright = ImageOps.exif_transpose(picture)
            return self._crop(upright.convert(self._mode), self._image_size, pick.draw)  # [C, S, S]

    def check(self) -> None:
        """ValueError naming the first file that cannot be read, without decoding those that are whole."""
        for reason in self._faults():
            if reason is not None:
                raise ValueError(reason)

    def drop_unreadable(self) -> None:
        """Leaves out the files that cannot be read, and warns of them with their number and the first reasons."""
        faults = list(self._faults())
        bad = [reason for reason in faults if reason is not None]
        if bad:
            more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
            rank_zero_warn(
                f"data.on_error=skip leaves out {len(bad)} of {len(faults):,} pictures of {self.root}: "
                f"{'; '.join(bad[:3])}{more}"
            )
            kept = [number for number, reason in enumerate(faults) if reason is None]
            self._files, self.labels = [self._files[number] for number in kept], self.labels[kept]

    def _faults(self) -> Iterator[str | None]:
        """What is wrong with each file, in order."""
        with ThreadPoolExecutor() as threads:
            # In slices, so that an interrupt or the first bad file does not wait for millions of others.
            for start in range(0, len(self._files), 4096):
                yield from list(threads.map(_fault, self._files[start : start + 4096]))


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"mode {picture.mode} has more than 8 bits a channel; convert it to 8")
            yield picture
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read the picture {file}: {error}") from error


def _fault(file: Path) -> str | None:
    try:
        with _opened(file) as picture, file.open("rb") as content:
            content.seek(-min(16, file.stat().st_size), os.SEEK_END)
            # A file that was cut short lacks its end mark; a whole one may have bytes behind it: only decoding tells.
            if _END_MARKS.get(picture.format or "", b"\0") not in content.read():
                picture.load()
    except ValueError as error:
        return str(error)
    return None


class Folder(Pictures):
    """Pictures in root/train/<class>/ and root/val|validation|test/<class>/, classes sorted by name.

    A missing validation split is an error: a loss on training pictures would not say what it claims to. crop: how a
    picture becomes square, a name of CROPS; validation never draws. on_error: "raise" names the first file that cannot
    be read, "skip" leaves such files out and says how many and which.
    """

    def __init__(self, root: str, channels: int, crop: str = "center", on_error: str = "raise", **pictures: Any):
        super().__init__(channels=channels, **pictures)
        if channels not in (1, 3):
            raise ValueError(f"data.channels of a folder must be 1 (grey) or 3 (colour), got {channels}")
        for key, value, known in (("crop", crop, CROPS), ("on_error", on_error, ("raise", "skip"))):
            if value not in known:
                raise ValueError(f"data.{key} must be one of {', '.join(known)}, got {value!r}")
        if crop == "random_resized" and self.storage != "disk":
            raise ValueError(f"data.crop=random_resized needs data.storage=disk; {self.storage} keeps one crop of each")
        self.root, self.crop, self.on_error = Path(root).expanduser(), crop, on_error

    @property
    def all_class_names(self) -> list[str]:
        return folder_classes(self.root)

    def prepare_data(self) -> None:
        # Lightning calls this once a node, before training.
        if self.on_error == "raise":
            for split in self._splits():
                split.check()

    def load(self) -> tuple[FolderSplit, FolderSplit]:
        train, validation = self._splits()
        if self.on_error == "skip":
            for split in (train, validation):
                split.drop_unreadable()
            self._check_classes(train, validation)
        return train, validation

    def _splits(self) -> tuple[FolderSplit, FolderSplit]:
        names = self.all_class_names
        held_out = next((self.root / n for n in _VALIDATION_NAMES if (self.root / n).is_dir()), None)
        if held_out is None:
            raise ValueError(f"data.root={self.root} has no validation split; name it {', '.join(_VALIDATION_NAMES)}")
        train, validation = (
            FolderSplit(split, names, self.image_size, self.channels, CROPS[self.crop])
            for split in (self.root / "train", held_out)
        )
        self._check_classes(train, validation)
        return train, validation

    def _check_classes(self, train: FolderSplit, validation: FolderSplit) -> None:
        names = self.all_class_names
        if empty := sorted(set(range(len(names))) - set(train.labels.tolist())):
            raise ValueError(f"data.root={self.root} has no pictures in train/{names[empty[0]]}")
        if not len(validation):
            raise ValueError(f"data.root={self.root} has no pictures of these classes in {validation.root.name}/")


def folder_classes(root: str | Path) -> list[str]:
    """Sorted class names of root/train. ValueError for a missing folder or fewer than two classes."""
    train = Path(root).expanduser() / "train"
    if not train.is_dir():
        raise ValueError(f"data.root={root} must be a folder with train/<class>/ inside; {train} does not exist")
    names = sorted(d.name for d in train.iterdir() if d.is_dir() and not d.name.startswith("."))
    if len(names) < 2:
        raise ValueError(
            f"data.root={root} must have at least two class folders in train/, found {len(names)}"
            + (f" ({names[0]})" if names else "")
        )
    return names
