"""Labelled uint8 pictures of one split, read a batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.order import Pick


class Batch(NamedTuple):
    """images: [B, C, H, W], uint8 from the loader and model space after transfer; labels: [B]; index: [B] in the
    split, to name a picture that made trouble."""

    images: Tensor
    labels: Tensor
    index: Tensor


class Split(Dataset[Batch], ABC):
    """One split: pictures [C, H, W] in uint8 with labels 0 ... K - 1, read a batch at a time."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int, draw: int | None = None) -> Tensor:
        """Picture `index`, uint8 [C, H, W]; what is random about it, if anything, is a function of `draw`."""

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        images = [self.read(pick.index, pick.draw) for pick in picks]
        images = [image.flip(-1) if pick.mirrored else image for image, pick in zip(images, picks, strict=True)]
        index = torch.tensor([pick.index for pick in picks])
        return Batch(torch.stack(images), self.labels[index], index)

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
    """A split that fits in memory: images uint8 [N, C, H, W], labels int64 [N]."""

    def __init__(self, images: Tensor, labels: Tensor):
        assert images.dtype == torch.uint8
        assert images.ndim == 4
        assert len(images) == len(labels)
        self.images, self.labels = images, labels

    def read(self, index: int, draw: int | None = None) -> Tensor:
        return self.images[index]

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        index = torch.tensor([pick.index for pick in picks])
        mirrored = torch.tensor([pick.mirrored for pick in picks])
        images = self.images.index_select(0, index)  # [B, C, H, W]; several times as fast as [index]
        rows = mirrored.nonzero().flatten()
        images.index_copy_(0, rows, images.index_select(0, rows).flip(-1))
        return Batch(images, self.labels[index], index)
