"""Exponential solvers that integrate a polynomial through several denoised pictures: DPM-Solver(++) and UniPC."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dit.diffusion.path import Coefficients, GaussianPath
from dit.solvers.solver import Solver

Past = tuple[tuple[float, Tensor], ...]
"""Half log-SNR, always finite, and x0 [B, *D] predicted there; the newest first."""


def _moment(power: int, h: float) -> float:
    """Integral over s in [0, 1] of h exp(-h (1 - s)) s^power."""
    if h < 1:
        # Its series: the recursion below would cancel.
        return sum((-1) ** k * h ** (k + 1) * math.factorial(power) / math.factorial(power + k + 1) for k in range(18))
    return 1 - math.exp(-h) if power == 0 else 1 - power * _moment(power - 1, h) / h


def _advance(
    x: Tensor, x0: Tensor, here: Coefficients, there: Coefficients, h: float, others: Past, first_order_mean: bool
) -> Tensor:
    """x after a step of half log-SNR h, in which x0 follows the polynomial through its value at the start and `others`.

    others: (place, value) pairs, the place counted in steps from the start: past values lie below 0. With one other and
    first_order_mean its slope counts at half the step, as DPM-Solver++(2M) and the B2 variant of UniPC have it; exact
    integration differs from it in the next order.
    """
    mixture = x0 * -math.expm1(-h)
    if others:
        places = [place for place, _ in others]
        if first_order_mean and len(places) == 1:
            weights = [-math.expm1(-h) / 2 / places[0]]
        else:
            powers = range(1, len(places) + 1)
            matrix = torch.tensor([[place**k for place in places] for k in powers], dtype=torch.float64)
            moments = torch.tensor([_moment(k, h) for k in powers], dtype=torch.float64)
            weights = torch.linalg.solve(matrix, moments).tolist()
        for weight, (_, value) in zip(weights, others, strict=True):
            mixture = mixture + weight * (value - x0)
    c, d = here.like(x), there.like(x)
    return d.sigma / c.sigma * x + d.alpha * mixture  # [B, *D]


def _kept(others: Past, h: float, lower_above: float | None) -> Past:
    """The newest of `others` alone if a step of half log-SNR h is too long for a parabola, else all of them."""
    return others if lower_above is None or 2 * h <= lower_above else others[:1]


def _check_lower_above(value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"solver.lower_above must be positive, a log-SNR, or null for never, got {value}")


def _half_log_snr(path: GaussianPath, t: Tensor) -> float:
    return float(path.log_snr(t)) / 2


@dataclass(frozen=True)
class DPMSolverPP(Solver):
    """DPM-Solver++ (Lu et al. 2022, algorithms 1 and 2): 2S, 2M and 3M as (2, multistep=False), (2) and (3).

    variant: of 2M, whether the slope of x0 counts at the middle of the step ("midpoint") or is integrated ("heun").
    3M integrates the parabola through three pictures exactly and begins with a step of 2S, one evaluation more, so that
    it is of third order; the form found elsewhere halves the quadratic term and is of second.

    lower_above: of 3M, the length in log-SNR above which a step is one of 2M, or None for never. A parabola through
    pictures that far apart errs more than a line; with few steps those are the last steps of most grids.

    A step from pure noise or to clean data has no length in log-SNR and is an Euler step.
    """

    order: int = 2
    multistep: bool = True
    variant: Literal["midpoint", "heun"] = "midpoint"
    lower_above: float | None = 1.5

    def __post_init__(self) -> None:
        _check_lower_above(self.lower_above)
        if (self.order, self.multistep) not in ((2, False), (2, True), (3, True)):
            raise ValueError(
                "solver.order must be 2, or 3 with solver.multistep=true, "
                f"got order={self.order} and multistep={self.multistep}"
            )
        if self.variant not in ("midpoint", "heun"):
            raise ValueError(f"solver.variant must be midpoint or heun, got {self.variant!r}")

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.multistep else 2

    def step(self, predict, path, x, t, t_next, state, noise):
        here, there = path.coefficients(t), path.coefficients(t_next)
        prediction = predict(x, t)
        ends = _half_log_snr(path, t), _half_log_snr(path, t_next)
        h, past = ends[1] - ends[0], state.memory or ()
        if math.isinf(h):
            c = there.like(x)
            return prediction.combine(c.alpha, c.sigma), state
        x0 = prediction.x0  # [B, *D]
        state = replace(state, memory=((ends[0], x0), *past)[: self.order - 1])
        others = tuple(((place - ends[0]) / h, value) for place, value in past)
        kept = _kept(others, h, self.lower_above)
        is_2m = self.order == 2 or len(kept) < len(others)
        others = kept
        if not self.multistep or (self.order == 3 and not past):
            middle = path.t_from_log_snr(torch.tensor(ends[0] + ends[1], dtype=torch.float64))
            c = path.coefficients(middle).like(x)
            x0, others = predict(prediction.combine(c.alpha, c.sigma), middle).x0, ()
        return _advance(x, x0, here, there, h, others, is_2m and self.variant == "midpoint"), state


@dataclass(frozen=True)
class _Last:
    """The step a corrector will do again, from x at t where x0 was predicted, with the pictures before it; and where
    it led."""

    x: Tensor
    led_to: Tensor
    t: Tensor
    x0: Tensor
    others: Past


@dataclass(frozen=True)
class UniPC(Solver):
    """UniPC-p, B2, in x0 (Zhao et al. 2023, algorithms 1 and 2): a multistep predictor of order p, then the same step
    again with the picture predicted at its end, which the next step needs anyway. The whole is of order p + 1.

    order: p, as in the name. One evaluation a step; the last result is not corrected. lower_above: of UniPC-3, the
    length in log-SNR above which a step is one of UniPC-2, or None for never; see `DPMSolverPP`.
    """

    order: int = 2
    lower_above: float | None = 1.5
    evaluations = 1

    @property
    def convergence(self) -> int:
        return self.order + 1

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"solver.order must be 1, 2 or 3, got {self.order}")
        _check_lower_above(self.lower_above)

    def step(self, predict, path, x, t, t_next, state, noise):
        here, there = path.coefficients(t), path.coefficients(t_next)
        prediction = predict(x, t)
        x0 = prediction.x0  # [B, *D]
        last, past = state.memory or (None, ())
        start = _half_log_snr(path, t)
        if last is not None:
            h = start - _half_log_snr(path, last.t)
            corrected = _advance(last.x, last.x0, path.coefficients(last.t), here, h, (*last.others, (1.0, x0)), True)
            x = x + (corrected - last.led_to)  # a difference, so that what others did to x in between stays
        h = _half_log_snr(path, t_next) - start
        if float(there.sigma) == 0:
            return x0, state
        if math.isinf(h):
            c = there.like(x)
            return prediction.combine(c.alpha, c.sigma), state
        others = tuple(((place - start) / h, value) for place, value in past)[: self.order - 1]
        others = _kept(others, h, self.lower_above)
        x_next = _advance(x, x0, here, there, h, others, True)
        memory = _Last(x, x_next, t, x0, others), ((start, x0), *past)[: self.order - 1]
        return x_next, replace(state, memory=memory)


@dataclass(frozen=True)
class DPMSolver2(Solver):
    """DPM-Solver-2 (Lu et al. 2022, algorithm 1, r = 1/2), "dpm_2" of k-diffusion: the slope d(x/alpha)/d(sigma/alpha)
    at the geometric middle of the step. From pure noise and to clean data it is an Euler step.
    """

    order = 2
    evaluations = 2

    def step(self, predict, path, x, t, t_next, state, noise):
        here, there = path.coefficients(t), path.coefficients(t_next)
        prediction, middle = predict(x, t), path.log_snr(t) / 2 + path.log_snr(t_next) / 2
        c, d = here.like(x), there.like(x)
        if not bool(middle.isfinite()):
            return prediction.combine(d.alpha, d.sigma), state
        middle = path.t_from_log_snr(middle)
        m = path.coefficients(middle).like(x)
        eps = predict(prediction.combine(m.alpha, m.sigma), middle).eps  # [B, *D]
        return d.alpha / c.alpha * x + (d.sigma - d.alpha * c.sigma / c.alpha) * eps, state
