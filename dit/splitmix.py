"""SplitMix64 (Steele, Lea and Flood 2014; multipliers of variant 13 of Stafford): 64 bits as a function of 64 bits, the
same on every device. Integers wrap, so int64 does where PyTorch has no unsigned one."""

from __future__ import annotations

from torch import Tensor


def _signed(word: int) -> int:
    """64 bits as the int64 that has them."""
    return word - (word >> 63 << 64)


GOLDEN = _signed(0x9E3779B97F4A7C15)  # what a counter goes up by
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def mix(words: Tensor) -> Tensor:
    """A bijection of int64 words of any shape, in which each bit of the result depends on all of them."""
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def top(words: Tensor, count: int) -> Tensor:
    """The upper `count` bits of int64 words as whole numbers in float32, exact up to 24."""
    return _shifted(words, 64 - count).float()


def _shifted(words: Tensor, bits: int) -> Tensor:
    """To the right, filled with zeros where int64 would repeat its sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
