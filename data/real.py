"""Pictures that scores are computed of: of a split or of any folder, a batch at a time, with a digest of all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from data.files import counted, in_threads, list_pictures, look, read_picture, unread
from data.order import Pick
from data.split import Split
from dit.checks import printable
from dit.files import given_path

_BATCH = 256
_BATCH_BYTES = 1 << 32  # pictures of more than 16 MB come in smaller batches


class Real:
    """`count` pictures of `name`, decoded when they are asked for. labels: int64 [N], or None where nobody says."""

    def __init__(self, name: str, split: Split, numbers: Sequence[int], labelled: bool = True):
        self.name, self._split, self._numbers = name, split, list(numbers)
        self.labels = split.labels[self._numbers] if labelled else None

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self._split.read(self._numbers[0]).shape)

    def batches(self) -> Iterator[Tensor]:
        """uint8 [B, C, H, W]."""
        size = max(1, min(_BATCH, _BATCH_BYTES // math.prod(self.shape)))
        for start in range(0, len(self), size):
            yield self._split.images([Pick(number) for number in self._numbers[start : start + size]])

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All of them, uint8 [N, C, H, W], and their labels [N]."""
        assert self.labels is not None
        return torch.cat(list(self.batches())), self.labels

    @cached_property
    def digest(self) -> str:
        """12 digits of a hash of the pictures: of their files' contents, or of their pixels if they have no files."""
        content = hashlib.sha256(f"{len(self)} {list(self.shape)}".encode())
        files = self._split.files()
        parts = (
            (images.numpy().tobytes() for images in self.batches())
            if files is None
            else in_threads(Path.read_bytes, (files[number] for number in self._numbers), ahead=32)
        )
        for part in parts:
            content.update(part)
        if self.labels is not None:
            content.update(self.labels.numpy().tobytes())
        return content.hexdigest()[:12]


def real_of_split(name: str, split: Split, limit: int | None = None) -> Real:
    """The pictures of a split, or `limit` of them, the same ones every time."""
    return Real(name, split, split.some(limit))


def real_of_folder(
    folder: str | Path,
    classes: Sequence[str] = (),
    key: str = "real",
    beside: Sequence[str] = (),
    labels: Sequence[int] | None = None,
) -> Real:
    """All pictures below a folder as they are, by name. Where each lies in a subfolder that bears the name of one of
    `classes`, it has that label. key: of the configuration, which said the folder; beside: names of files that are none
    of the pictures; labels: of all of them, where somebody knows.

    ValueError for a folder without pictures or with one that cannot be read, for pictures of several sizes, for a
    constant one, and for such a subfolder without any.
    """
    folder = given_path(key, folder)
    said = f"{key}={printable(str(folder))}"
    if not folder.is_dir():
        raise ValueError(f"{said} must be a folder of pictures or an .npz file, and does not exist")
    listing = list_pictures(folder)
    listing.pictures[:] = [file for file in listing.pictures if file not in [folder / name for name in beside]]
    for sentence in listing.unlisted:
        raise ValueError(sentence)
    others = counted(unread(listing.ignored))
    if not listing.pictures:
        raise ValueError(f"{said} holds no pictures" + (f" but files of other endings: {others}" if others else ""))
    if others:
        rank_zero_warn(f"{said} has files that are not read: {others}")
    if labels is not None:
        if len(labels) != len(listing.pictures):
            raise ValueError(f"{said} holds {len(listing.pictures)} pictures, but {len(labels)} labels are known")
        return Real(folder.name, _Loose(listing.pictures, list(labels)), range(len(labels)))
    inside = [file.relative_to(folder).parts[0] if file.parent != folder else None for file in listing.pictures]
    known = {name: label for label, name in enumerate(classes)}
    found = [known[name] for name in inside if name in known]
    labelled = len(found) == len(inside)
    if labelled and (empty := [n for n in classes if (folder / n).is_dir() and n not in inside]):
        raise ValueError(f"{said}/{printable(empty[0])} holds no pictures of its class: fill it or remove it")
    split = _Loose(listing.pictures, found if labelled else [0] * len(inside))
    return Real(folder.name, split, range(len(split)), labelled)


class _Loose(Split):
    """Pictures as they are; all must be as large as the first, and grey or in colour as it is."""

    def __init__(self, files: list[Path], labels: list[int]):
        self._files, self.labels = files, torch.tensor(labels)
        first = None
        for file, form in zip(files, in_threads(_form, files), strict=True):
            first = form if first is None else first
            if form != first:
                theirs, ours = (f"{width}x{height} {colour}" for width, height, colour in (form, first))
                said = [printable(str(name)) for name in (file, files[0])]
                raise ValueError(f"{said[0]} is {theirs}, but {said[1]} is {ours}: all pictures must have one form")
        self._mode = "L" if first is not None and first[2] == "grey" else "RGB"

    def files(self) -> list[Path]:
        return self._files

    def images(self, picks: Sequence[Pick]) -> Tensor:
        return torch.stack(list(in_threads(self._read, [self._files[pick.index] for pick in picks])))  # [B, C, H, W]

    def _read(self, file: Path) -> Tensor:
        image = pil_to_tensor(read_picture(file, self._mode))  # [C, H, W]
        if (image == image[:, :1, :1]).all():
            raise ValueError(f"{printable(str(file))} is constant, which no score takes: take it out or write it again")
        return image


def _form(file: Path) -> tuple[int, int, str]:
    seen = look(file)
    if seen.fault is not None:
        raise ValueError(seen.fault)
    size = read_picture(file, "L").size if seen.turned else (seen.width, seen.height)
    return *size, "grey" if seen.mode in ("1", "L", "LA") else "colour"
