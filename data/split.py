"""Labelled uint8 pictures of one split, read a batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.order import Pick


class Batch(NamedTuple):
    """images: [B, C, H, W], bytes or latents from the loader and model space after transfer; labels: [B]; index: [B] in
    the split, to name a picture that made trouble."""

    images: Tensor
    labels: Tensor
    index: Tensor


class Split(Dataset[Batch], ABC):
    """One split: pictures [C, H, W] in uint8 with labels 0 ... K - 1, read a batch at a time."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, picks: Sequence[Pick]) -> Tensor:
        """The pictures picked [B, C, H, W], mirrored where asked; what else is random about one, if anything, is
        a function of its `draw`."""

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        index = torch.tensor([pick.index for pick in picks])
        return Batch(self.images(picks), self.labels[index], index)

    def read(self, index: int) -> Tensor:
        """Picture `index`, uint8 [C, H, W], with nothing random about it."""
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
        """The pictures uint8 [N, C, H, W] and their labels [N]; with a limit, those of `some`."""
        batch = self.__getitems__([Pick(i) for i in self.some(limit)])
        return batch.images, batch.labels


class InMemory(Split):
    """A split that fits in memory: pixels uint8 [N, C, H, W], labels int64 [N]."""

    def __init__(self, pixels: Tensor, labels: Tensor):
        assert pixels.dtype == torch.uint8
        assert pixels.ndim == 4
        assert len(pixels) == len(labels)
        self.pixels, self.labels = pixels, labels

    def images(self, picks: Sequence[Pick]) -> Tensor:
        index = torch.tensor([pick.index for pick in picks])
        mirrored = torch.tensor([pick.mirrored for pick in picks])
        images = self.pixels.index_select(0, index)  # [B, C, H, W]; several times as fast as [index]
        rows = mirrored.nonzero().flatten()
        return images.index_copy_(0, rows, images.index_select(0, rows).flip(-1))
