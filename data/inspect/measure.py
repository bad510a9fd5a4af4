"""The pictures of a split as the network sees them: means, deviations and fingerprints, decoded in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from data.files import in_threads
from data.order import Pick
from data.pictures import Pictures
from data.split import Split

T = TypeVar("T")
Watch = Callable[[Iterable[T], int, str], Iterable[T]]  # shows how far an iterable of so many things is

_CHUNK = 16


@dataclass
class Moments:
    """Sums over pictures, by channel, in float64: exact for bytes."""

    count: int = 0
    sums: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    @classmethod
    def of(cls, images: Tensor) -> Moments:
        values = images.transpose(0, 1).flatten(1).double()  # [C, B H W]
        return cls(values.shape[1], values.sum(1), values.square().sum(1))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.sums + other.sums, self.squares + other.squares)

    @property
    def spec(self) -> dict[str, list[float]] | None:
        """Mean and deviation of each channel; None of nothing."""
        if not self.count:
            return None
        mean = torch.as_tensor(self.sums) / self.count  # [C]
        std = (torch.as_tensor(self.squares) / self.count - mean.square()).clamp(min=0).sqrt()  # [C]
        return {"mean": mean.tolist(), "std": std.tolist()}


@dataclass
class PictureStatistics:
    """index: the pictures that were decoded; prints: 64 bits of a hash of each; faults: reasons by index."""

    index: list[int] = field(default_factory=list)
    prints: list[int] = field(default_factory=list)
    pixels: Moments = field(default_factory=Moments)
    model: Moments = field(default_factory=Moments)
    faults: dict[int, str] = field(default_factory=dict)

    def add(self, other: PictureStatistics) -> None:
        self.index += other.index
        self.prints += other.prints
        self.pixels += other.pixels
        self.model += other.model
        self.faults |= other.faults


def measure(data: Pictures, split: Split, index: Sequence[int], watch: Watch[Any], title: str) -> PictureStatistics:
    """Decodes the pictures `index` of a split as validation would, with nothing random about them."""
    chunks = [index[i : i + _CHUNK] for i in range(0, len(index), _CHUNK)]
    measured = PictureStatistics()
    for part in watch(in_threads(partial(_measure, data, split), chunks, ahead=64), len(chunks), title):
        measured.add(part)
    return measured


def _measure(data: Pictures, split: Split, index: Sequence[int]) -> PictureStatistics:
    try:
        batch = split.__getitems__([Pick(i) for i in index])
    except ValueError as error:
        if len(index) == 1:
            return PictureStatistics(faults={index[0]: str(error)})
        apart = PictureStatistics()
        for i in index:
            apart.add(_measure(data, split, [i]))
        return apart
    prints = [int.from_bytes(blake2b(image.numpy().tobytes(), digest_size=8).digest()) for image in batch.images]
    pixels = Moments.of(batch.images) if batch.images.dtype == torch.uint8 else Moments()
    return PictureStatistics(list(index), prints, pixels, Moments.of(data.on_after_batch_transfer(batch, 0).images))


def twins(measured: PictureStatistics, labels: Tensor) -> dict[str, Any]:
    """Pictures of one split that decode to the same square: how many more than one of each, how many of such groups
    span several classes, and some groups as indices, those of several classes first."""
    prints = np.array(measured.prints, dtype=np.uint64)
    order = prints.argsort(kind="stable")
    changes = np.flatnonzero(np.diff(prints[order])) + 1
    groups = [sorted(measured.index[n] for n in group) for group in np.split(order, changes) if len(group) > 1]
    mixed = [len(labels[group].unique()) > 1 for group in groups]
    ranked = sorted(zip(mixed, groups, strict=True), key=lambda pair: (not pair[0], pair[1]))
    return {
        "surplus": sum(map(len, groups)) - len(groups),
        "groups": len(groups),
        "groups_of_several_classes": sum(mixed),
        "examples": [group[:20] for _, group in ranked[:20]],
    }


def leaks(train: PictureStatistics, validation: PictureStatistics) -> list[tuple[int, int]]:
    """Pairs (validation index, train index) that decode to the same square."""
    known = dict(zip(reversed(train.prints), reversed(train.index), strict=True))
    pairs = zip(validation.index, validation.prints, strict=True)
    return sorted((index, known[number]) for index, number in pairs if number in known)
