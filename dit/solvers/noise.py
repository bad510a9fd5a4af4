"""One generator per image: image i depends on (seed, i) alone, not on batch, rank or world size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class ImageNoise:
    """Standard normal draws in which row i comes from a generator keyed by (seed, index of image i).

    Generators live on the CPU, so that every device sees the same numbers. Each `draw()` continues where the last one
    ended: the first is the start of the trajectory, later ones feed stochastic solvers.
    """

    def __init__(
        self,
        seed: int,
        indices: Iterable[int],
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self._generators = [torch.Generator().manual_seed(_key(seed, index)) for index in indices]
        self._shape, self._device, self._dtype = tuple(shape), device, dtype

    def draw(self) -> Tensor:
        """[B, *shape], unit variance."""
        rows = [torch.randn(self._shape, generator=g, dtype=self._dtype) for g in self._generators]
        return torch.stack(rows).to(self._device, non_blocking=True)  # [B, *shape]


def _key(seed: int, index: int) -> int:
    # Hashed, so that (seed 0, image 1) and (seed 1, image 0) share nothing.
    return int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "big")
