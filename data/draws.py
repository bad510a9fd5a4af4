"""Random numbers as a function of a picture's draw: the same ones on every device, in every batch, for every order."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """64 bits as the int64 that has them."""
    return word - (word >> 63 << 64)


# Of SplitMix64 (Steele, Lea and Flood 2014; the multipliers are variant 13 of Stafford).
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def uniforms(draws: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each of draws [B] int64: float32 [B, count], multiples of 2^-24.

    A counter-based hash: column k of draw d is mix(mix(d) + (k + 1) golden), in integers that wrap, so that they are
    equal to the bit wherever they are computed and neighbouring draws have nothing in common.
    """
    assert draws.dtype == torch.int64
    counter = torch.arange(1, count + 1, device=draws.device) * _GOLDEN  # [count]
    words = _mix(_mix(draws)[:, None] + counter)  # [B, count]
    return _shifted(words, 40).to(torch.float32) * 2**-24  # [B, count]; both steps are exact


def normals(uniform: Tensor) -> Tensor:
    """Standard normals [B, 2n] of as many uniforms [B, 2n], in pairs (Box and Muller 1958)."""
    radius, angle = uniform.chunk(2, dim=1)  # [B, n] each
    length = (-2 * torch.log1p(-radius)).sqrt()  # [B, n]
    angle = 2 * math.pi * angle  # [B, n]
    return torch.cat([length * angle.cos(), length * angle.sin()], dim=1)  # [B, 2n]


def _mix(words: Tensor) -> Tensor:
    """A bijection of 64 bits in which each bit of the result depends on all of them."""
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """To the right, filled with zeros where int64 would repeat its sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
