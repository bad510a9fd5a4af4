"""Any tree of root/split/class/picture, ImageNet's layout included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from data.pictures import Pictures, Split

_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm"}
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_VALIDATION_NAMES = ("val", "validation", "test")


class FolderSplit(Split):
    """The pictures of one split, decoded on demand, resized and cropped to a square."""

    def __init__(self, root: Path, class_names: list[str], image_size: int, channels: int):
        self._image_size, self._mode = image_size, {1: "L", 3: "RGB"}[channels]
        self._files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(class_names):
            files = sorted(f for f in (root / name).rglob("*") if f.suffix.lower() in _ENDINGS)
            self._files += files
            labels += [label] * len(files)
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def read(self, index: int) -> Tensor:
        """uint8 [C, S, S]: the short side resized to S with antialiasing, the centre cropped."""
        with _opened(self._files[index]) as picture:
            upright = ImageOps.exif_transpose(picture)
            pixels = F.pil_to_tensor(upright.convert(self._mode))  # [C, H, W]
        if min(pixels.shape[-2:]) != self._image_size:
            pixels = F.resize(pixels, [self._image_size], antialias=True)
        return F.center_crop(pixels, [self._image_size])  # [C, S, S]

    def check(self) -> None:
        """ValueError naming the first file that cannot be read, without decoding those that are whole."""
        with ThreadPoolExecutor() as threads:
            # In slices, so that an interrupt or the first bad file does not wait for millions of others.
            for start in range(0, len(self._files), 4096):
                list(threads.map(_check, self._files[start : start + 4096]))


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"mode {picture.mode} has more than 8 bits a channel; convert it to 8")
            yield picture
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read the picture {file}: {error}") from error


def _check(file: Path) -> None:
    with _opened(file) as picture, file.open("rb") as content:
        content.seek(-min(16, file.stat().st_size), os.SEEK_END)
        # A file that was cut short lacks its end mark; a whole one may have bytes behind it, so only decoding tells.
        if _END_MARKS.get(picture.format or "", b"\0") not in content.read():
            picture.load()


class Folder(Pictures):
    """Pictures in root/train/<class>/ and root/val|validation|test/<class>/, classes sorted by name.

    A missing validation split is an error: a loss on training pictures would not say what it claims to.
    """

    def __init__(self, root: str, channels: int, **pictures: Any):
        super().__init__(channels=channels, **pictures)
        if channels not in (1, 3):
            raise ValueError(f"data.channels of a folder must be 1 (grey) or 3 (colour), got {channels}")
        self.root = Path(root).expanduser()

    @property
    def class_names(self) -> list[str]:
        return folder_classes(self.root)

    def prepare_data(self) -> None:
        # Lightning calls this once a node, before training.
        for split in self._splits():
            split.check()

    def load(self) -> tuple[FolderSplit, FolderSplit]:
        train, validation = self._splits()
        return train, validation

    def _splits(self) -> tuple[FolderSplit, FolderSplit]:
        names = self.class_names
        held_out = next((self.root / n for n in _VALIDATION_NAMES if (self.root / n).is_dir()), None)
        if held_out is None:
            raise ValueError(f"data.root={self.root} has no validation split; name it {', '.join(_VALIDATION_NAMES)}")
        train, validation = (
            FolderSplit(split, names, self.image_size, self.channels) for split in (self.root / "train", held_out)
        )
        if len(train.labels.unique()) < len(names):
            empty = sorted(set(range(len(names))) - set(train.labels.tolist()))
            raise ValueError(f"data.root={self.root} has no pictures in train/{names[empty[0]]}")
        if not len(validation):
            raise ValueError(f"data.root={self.root} has no pictures of these classes in {held_out.name}/")
        return train, validation


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
