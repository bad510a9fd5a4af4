"""What is random about a picture in training, drawn by its number in the run: no generator, so no turn to wait for."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from dit.splitmix import GOLDEN, mix, top


def uniforms(seed: int, purpose: str, numbers: Tensor) -> Tensor:
    """Uniform draws [B] in [0, 1), one for each of the int64 `numbers` [B]; purposes are independent of each other."""
    return top(_bits(seed, purpose, numbers, 1)[:, 0], 24) * 2.0**-24  # [B]


def normals(seed: int, purpose: str, numbers: Tensor, like: Tensor) -> Tensor:
    """Standard normal draws [B, *D] of the shape of `like`, row i a function of (seed, purpose, numbers[i]) alone.

    The same bits on every device; the logarithms and cosines of Box and Muller (1958) differ in their last digits.
    """
    count = like[0].numel()
    bits = _bits(seed, purpose, numbers, (count + 1) // 2)  # [B, D/2]
    # A half is added, as the logarithm of 0 would be infinite: no draw is beyond 6.8.
    radius = (-2 * ((top(bits, 32) + 0.5) * 2.0**-32).log()).sqrt()  # [B, D/2]
    angle = top(bits << 32, 32) * (2 * math.pi * 2.0**-32)  # [B, D/2]
    draws = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)  # [B, D] or one more
    return draws[:, :count].view_as(like).to(like.dtype)  # [B, *D]


def _bits(seed: int, purpose: str, numbers: Tensor, count: int) -> Tensor:
    """64 bits [B, count] from SplitMix64, row i begun at a hash of its number."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest(), "big", signed=True)
    row = mix((numbers + 1) * GOLDEN + key)  # [B]
    return mix(row[:, None] + torch.arange(1, count + 1, device=numbers.device) * GOLDEN)  # [B, count]
