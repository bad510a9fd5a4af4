"""One step of the reverse chain between two noise levels: its variances, and how much of x0 it takes up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dit.diffusion.path import Coefficients


@dataclass(frozen=True)
class ReverseStep:
    """q(x_s | x_t, x0) for a level s below t.

    share: 1 - (sigma_s alpha_t / (alpha_s sigma_t))^2; at given x_t the mean moves by share alpha_s for a unit of x0.
    small: the variance, beta tilde (Ho et al. 2020, eq. 7). large: beta of the variance-preserving chain through the
    same two levels. A learned variance lies between the logarithms of both (Nichol and Dhariwal 2021, eq. 15).
    """

    share: Tensor
    small: Tensor
    large: Tensor

    @classmethod
    def between(cls, here: Coefficients, there: Coefficients) -> ReverseStep:
        """The step from `here` down to `there`, coefficients of the same shape."""
        share = 1 - (there.sigma * here.alpha / (there.alpha * here.sigma)) ** 2
        large = share * there.alpha**2 * _unit(here.sigma, here.alpha) / _unit(there.alpha, there.sigma)
        return cls(share, share * there.sigma**2, large)

    def learned(self, between: Tensor) -> Tensor:
        """The variance [B, *D] for `between` [B, *D]: -1 is small, 1 is large, linear between their logarithms."""
        weight = (between + 1) / 2  # [B, *D]
        large, small = (bound.log().to(between.dtype) for bound in (self.large, self.small))
        return torch.exp(weight * large + (1 - weight) * small)


def _unit(part: Tensor, other: Tensor) -> Tensor:
    """part^2, after scaling (part, other) to unit length."""
    return part**2 / (part**2 + other**2)
