"""Random numbers as a function of a picture's draw: the same ones on every device, in every batch, for every order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dit.splitmix import GOLDEN, mix, top


def uniforms(draws: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each of draws [B] int64: float32 [B, count], multiples of 2^-24.

    A counter-based hash: column k of draw d is mix(mix(d) + (k + 1) golden), in integers that wrap, so that they are
    equal to the bit wherever they are computed and neighbouring draws have nothing in common.
    """
    assert draws.dtype == torch.int64
    counter = torch.arange(1, count + 1, device=draws.device) * GOLDEN  # [count]
    words = mix(mix(draws)[:, None] + counter)  # [B, count]
    return top(words, 24) * 2**-24  # [B, count]; both steps are exact


def normals(uniform: Tensor) -> Tensor:
    """Standard normals [B, 2n] of as many uniforms [B, 2n], in pairs (Box and Muller 1958)."""
    radius, angle = uniform.chunk(2, dim=1)  # [B, n] each
    length = (-2 * torch.log1p(-radius)).sqrt()  # [B, n]
    angle = 2 * math.pi * angle  # [B, n]
    return torch.cat([length * angle.cos(), length * angle.sin()], dim=1)  # [B, 2n]
