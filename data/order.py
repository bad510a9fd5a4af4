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
        epoch, columns = -1, self._epoch(0)
        while True:
            batch: list[Pick] = []
            while len(batch) < share:
                now, place = divmod(first + len(batch), self._pictures)
                if now != epoch:
                    epoch, columns = now, self._epoch(now)
                until = place + share - len(batch)  # or the end of the epoch
                batch += map(Pick._make, zip(*(column[place:until].tolist() for column in columns), strict=True))
            yield batch
            first += self._batch_size

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(self._pictures, generator=generator)  # [N]
        coins = torch.rand(self._pictures, generator=generator)  # [N]
        draws = torch.randint(2**62, (self._pictures,), generator=generator)  # [N]
        return order, (coins < 0.5) & self._mirror, draws
