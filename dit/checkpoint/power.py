"""Power-function averages (Karras et al. 2024, EDM2): what a length means, and how well some averages make up another.

The average at step t weighs the weights of step s in (0, t] by p(s) = (gamma + 1) s^gamma / t^(gamma + 1) (section 3).
Its length is the standard deviation of p over t, so that it reaches back over the same share of a run at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST = 1 / math.sqrt(12)  # gamma = 0: the plain mean of all steps


def check_length(key: str, length: float) -> None:
    """ValueError, blaming the setting `key`, for a length that no average has."""
    if isinstance(length, bool) or not isinstance(length, int | float) or not 0 < length <= LONGEST:
        raise ValueError(f"{key} must be a share of the run above 0 and at most {LONGEST:.4f}, got {length!r}")


def gamma(length: float) -> float:
    """The exponent of a length: the largest root of length^2 (gamma + 2)^2 (gamma + 3) = gamma + 1.

    With t = length^-2 and gamma = y - 7/3 the cubic is y^3 - (t + 1/3) y + 4t/3 + 2/27, whose roots are all real where
    t >= 12, so the cosine of a third of an angle gives them.
    """
    t = length**-2
    p, q = t + 1 / 3, 4 * t / 3 + 2 / 27
    angle = math.acos(max(-1.0, -1.5 * q / p * math.sqrt(3 / p)))
    return 2 * math.sqrt(p / 3) * math.cos(angle / 3) - 7 / 3


@dataclass(frozen=True)
class Fit:
    """Averages times `coefficients`, which sum to one, make up the wanted average but for `residual`: the norm of what
    their profiles leave over, as a share of the norm of its own."""

    coefficients: list[float]
    residual: float


def fit(lengths: Sequence[float], steps: Sequence[int], length: float, step: int) -> Fit:
    """The best sum of averages of `lengths` at `steps` for one of `length` at `step`, by least squares of the profiles
    in float64 (section 3 and appendix C).

    That the coefficients sum to one is demanded here and not there: weights that stood still stay as they were, where
    a sum of 0.998 would scale every weight.
    """
    exponents = torch.tensor([gamma(value) for value in [*lengths, length]], dtype=torch.float64)  # [N + 1]
    ends = torch.tensor([*steps, step], dtype=torch.float64)  # [N + 1]
    products = _inner(exponents[:, None], ends[:, None], exponents, ends)  # [N + 1, N + 1]
    norms = products.diagonal().sqrt()  # [N + 1]
    cosines = products / norms[:, None] / norms  # [N + 1, N + 1]
    gram, wanted, share = cosines[:-1, :-1], cosines[:-1, -1], norms[-1] / norms[:-1]  # [N, N], [N], [N]
    # The stationary point of the squared error with a Lagrange multiplier; neighbours are so alike that some pairs may
    # be told apart by rounding alone, which the pseudo-inverse leaves out.
    system = torch.zeros(len(cosines), len(cosines), dtype=torch.float64)
    system[:-1, :-1], system[-1, :-1], system[:-1, -1] = gram, share, share
    right = torch.cat([wanted, torch.ones(1, dtype=torch.float64)])  # [N + 1]
    solution = (torch.linalg.pinv(system, rtol=1e-13, hermitian=True) @ right)[:-1]  # [N]
    squared = 1 - 2 * solution @ wanted + solution @ gram @ solution
    return Fit((solution * share).tolist(), math.sqrt(max(0.0, float(squared))))


def _inner(gamma_a: Tensor, end_a: Tensor, gamma_b: Tensor, end_b: Tensor) -> Tensor:
    """The integral of the product of two profiles, arranged so that no power overflows."""
    shared = torch.minimum(end_a, end_b)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) / torch.maximum(end_a, end_b)
    return scale * (shared / end_a) ** gamma_a * (shared / end_b) ** gamma_b
