"""Pictures that scores are computed of: of a split or of any folder, a batch at a time, with a digest of all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from data.files import in_threads, list_pictures, look, read_picture
from data.order import Pick
from data.split import Split

_BATCH = 256


class Real:
    """`count` pictures of `name`, decoded when they are asked for. labels: int64 [N], or None where nobody says."""

    def __init__(self, name: str, split: Split, numbers: Sequence[int], labelled: bool = True):
        self.name, self._split, self._numbers = name, split, list(numbers)
        self.labels = split.labels[self._numbers] if labelled else None

    def __len__(self) -> int:
        return len(self._numbers)

    def batches(self) -> Iterator[Tensor]:
        """uint8 [B, C, H, W]."""
        for start in range(0, len(self), _BATCH):
            yield self._split.images([Pick(number) for number in self._numbers[start : start + _BATCH]])

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All of them, uint8 [N, C, H, W], and their labels [N]."""
        assert self.labels is not None
        return torch.cat(list(self.batches())), self.labels

    @cached_property
    def digest(self) -> str:
        """12 digits of a hash of the pictures: of their files' contents, or of their pixels if they have no files."""
        content = hashlib.sha256(f"{len(self)} {list(self._split.read(0).shape)}".encode())
        files = self._split.files()
        parts = (
            (images.numpy().tobytes() for images in self.batches())
            if files is None
            else in_threads(Path.read_bytes, (files[number] for number in self._numbers))
        )
        for part in parts:
            content.update(part)
        if self.labels is not None:
            content.update(self.labels.numpy().tobytes())
        return content.hexdigest()[:12]


def real_of_split(name: str, split: Split, limit: int | None = None) -> Real:
    """The pictures of a split, or `limit` of them, the same ones every time."""
    return Real(name, split, split.some(limit))


def real_of_folder(folder: str | Path) -> Real:
    """All pictures below a folder as they are, by name; those of its subfolders have the label of their subfolder, if
    every picture lies in one.

    ValueError for a folder without pictures, for one that cannot be read, and for pictures of several sizes.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} must be a folder of pictures or an .npz file, and does not exist")
    listing = list_pictures(folder)
    for sentence in listing.unlisted:
        raise ValueError(sentence)
    if not listing.pictures:
        raise ValueError(f"{folder} holds no pictures")
    split = _Loose(folder, listing.pictures)
    return Real(folder.name, split, range(len(split)), labelled=split.labelled)


class _Loose(Split):
    """Pictures as they are; all must be as large as the first, and grey or in colour as it is."""

    def __init__(self, folder: Path, files: list[Path]):
        self._files, self._first = files, files[0]
        classes = [file.relative_to(folder).parts[0] if file.parent != folder else None for file in files]
        names = sorted({name for name in classes if name is not None})
        self.labelled = None not in classes and len(names) > 1
        self.labels = torch.tensor([names.index(name) if self.labelled and name else 0 for name in classes])
        self._form = _form(files[0])

    def files(self) -> list[Path]:
        return self._files

    def images(self, picks: Sequence[Pick]) -> Tensor:
        return torch.stack(list(in_threads(self._read, [self._files[pick.index] for pick in picks])))  # [B, C, H, W]

    def _read(self, file: Path) -> Tensor:
        if (form := _form(file)) != self._form:
            theirs, ours = (f"{width}x{height} {colour}" for width, height, colour in (form, self._form))
            raise ValueError(f"{file} is {theirs}, but {self._first} is {ours}: all pictures must have one form")
        return pil_to_tensor(read_picture(file, "L" if form[2] == "grey" else "RGB"))  # [C, H, W]


def _form(file: Path) -> tuple[int, int, str]:
    seen = look(file)
    if seen.fault is not None:
        raise ValueError(seen.fault)
    size = read_picture(file, "L").size if seen.turned else (seen.width, seen.height)
    return *size, "grey" if seen.mode in ("1", "L", "LA") else "colour"
