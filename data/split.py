"""Labelled pictures of one split, read a batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.order import Pick


class Batch(NamedTuple):
    """images: [B, C, H, W], bytes or latents from the loader and model space after transfer; labels: [B]; index: [B] in
    the split, to name a picture that made trouble; draws: int64 [B] that fix what is random about each, None in
    validation; conditions: what else the network is told of each, [B, ...] by name, such as how it was augmented."""

    images: Tensor
    labels: Tensor
    index: Tensor
    draws: Tensor | None = None
    conditions: dict[str, Tensor] = {}  # noqa: RUF012 (plain, as workers pickle it)


class Picks(NamedTuple):
    """Which pictures make a batch, before there are any: index [B], mirrored [B] bool, draws int64 [B] or None."""

    index: Tensor
    mirrored: Tensor
    draws: Tensor | None

    @classmethod
    def of(cls, picks: Sequence[Pick]) -> Picks:
        index, mirrored, draws = zip(*picks, strict=True)
        return cls(torch.tensor(index), torch.tensor(mirrored), None if None in draws else torch.tensor(draws))


class Split(Dataset[Batch], ABC):
    """One split: pictures [C, H, W] with labels 0 ... K - 1, read a batch at a time."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, picks: Sequence[Pick]) -> Tensor:
        """The pictures picked, [B, C, H, W] as `codec.encode` takes them, mirrored where asked; what else is random
        about one, if anything, is a function of its `draw`."""

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        index, _, draws = Picks.of(picks)
        return Batch(self.images(picks), self.labels[index], index, draws)

    def read(self, index: int) -> Tensor:
        """Picture `index`, [C, H, W], with nothing random about it."""
        return self.images([Pick(index)])[0]

    def files(self) -> list[Path] | None:
        """The file of each picture, where pictures have files."""
        return None

    def some(self, limit: int | None = None) -> list[int]:
        """The first `limit` numbers of a fixed shuffle, or all in order."""
        if limit is None or limit >= len(self):
            return list(range(len(self)))
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:limit].tolist()

    def tensors(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """The pictures [N, C, H, W] and their labels [N]; with a limit, those of `some`."""
        batch = self.__getitems__([Pick(i) for i in self.some(limit)])
        return batch.images, batch.labels

    def in_memory(self, chunk: int = 64) -> InMemory:
        """All of it, with nothing random about it, decoded by threads that take `chunk` pictures at a time."""
        chunks = [range(len(self))[start : start + chunk] for start in range(0, len(self), chunk)]
        first = self.read(0)
        pixels = first.new_empty(len(self), *first.shape)  # [N, C, H, W]

        def decode(part: range) -> None:
            pixels[part.start : part.stop] = self.images([Pick(i) for i in part])

        with ThreadPoolExecutor() as threads:
            for _ in threads.map(decode, chunks):
                pass
        return InMemory(pixels, self.labels)


class InMemory(Split):
    """A split that fits in memory, or on a device: pixels uint8 [N, C, H, W], labels int64 [N]."""

    def __init__(self, pixels: Tensor, labels: Tensor):
        assert pixels.dtype == torch.uint8
        assert pixels.ndim == 4
        assert len(pixels) == len(labels)
        self.pixels, self.labels = pixels, labels

    def images(self, picks: Sequence[Pick]) -> Tensor:
        return self._gather(Picks.of(picks))

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        return self.batch(Picks.of(picks))

    def batch(self, picks: Picks) -> Batch:
        """The batch of picks that lie on the same device."""
        return Batch(self._gather(picks), self.labels[picks.index], picks.index, picks.draws)

    def _gather(self, picks: Picks) -> Tensor:
        images = self.pixels.index_select(0, picks.index)  # [B, C, H, W]; several times as fast as [index]
        if not images.is_cpu:  # to ask which are mirrored would wait for the device
            return torch.where(picks.mirrored[:, None, None, None], images.flip(-1), images)
        rows = picks.mirrored.nonzero().flatten()
        return images.index_copy_(0, rows, images.index_select(0, rows).flip(-1))

    def in_memory(self, chunk: int = 64) -> InMemory:
        return self

    def to(self, device: torch.device) -> InMemory:
        return InMemory(self.pixels.to(device), self.labels.to(device))


class Numbers(Dataset[Picks]):
    """In the place of a split whose pictures are on a device already: batches of which pictures they are."""

    def __getitems__(self, picks: Sequence[Pick]) -> Picks:
        return Picks.of(picks)
