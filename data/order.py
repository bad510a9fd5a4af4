"""Which pictures make batch k: a function of (seed, k, rank) alone, so a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler


class Pick(NamedTuple):
    """A picture's index, whether to mirror it, and the number that fixes what else is random about it, if anything."""

    index: int
    mirrored: bool = False
    draw: int | None = None


class EndlessOrder(Sampler[list[Pick]]):
    """Batches without end for one rank: epoch after epoch, each a fresh permutation of all pictures.

    Epochs follow each other without a gap (a batch may span two), every rank takes its own slice of the global batch,
    and `start` skips batches without computing them.

    batch_size: global, per forward pass; world_size must divide it. mirror: flip each picture with probability 1/2.
    """

    def __init__(
        self, pictures: int, batch_size: int, seed: int, rank: int, world_size: int, mirror: bool, start: int = 0
    ):
        assert batch_size % world_size == 0
        assert 0 <= rank < world_size
        self._pictures, self._batch_size, self._seed, self._mirror = pictures, batch_size, seed, mirror
        self._rank, self._world_size, self._start = rank, world_size, start

    def __iter__(self) -> Iterator[list[Pick]]:
        share = self._batch_size // self._world_size
        first = self._start * self._batch_size + self._rank * share
        epoch, order, mirrored, draws = -1, *[torch.empty(0)] * 3
        while True:
            batch = []
            for position in range(first, first + share):
                if position // self._pictures != epoch:
                    epoch = position // self._pictures
                    order, mirrored, draws = self._epoch(epoch)
                place = position % self._pictures
                batch.append(Pick(int(order[place]), bool(mirrored[place]), int(draws[place])))
            yield batch
            first += self._batch_size

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(self._pictures, generator=generator)  # [N]
        coins = torch.rand(self._pictures, generator=generator)  # [N]
        draws = torch.randint(2**62, (self._pictures,), generator=generator)  # [N]
        return order, (coins < 0.5) & self._mirror, draws
