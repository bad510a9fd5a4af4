"""Guidance scales: a number, or a function of the noise level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from dit.diffusion.path import GaussianPath, LinearFlow

Scale = float | Callable[[float], float]
"""A number, or a callable from log-SNR (-inf at pure noise, inf at data) to a number."""


@dataclass(frozen=True)
class LinearScale:
    """low at data, high at noise, linear in the time of `path`; by default sigma / (alpha + sigma), flow's own time.

    The level decides, not the step, so that a scale means the same on every grid and under every path. 15 t + 5 of a
    table of betas is LinearScale(5, 20, path=DiscreteVP.scaled_linear()).
    """

    low: float
    high: float
    path: GaussianPath = field(default_factory=LinearFlow)

    def __post_init__(self) -> None:
        check_number(self.low, "guidance.scale.low")
        check_number(self.high, "guidance.scale.high")

    def _time(self, log_snr: float) -> float:
        return float(self.path.t_from_log_snr(torch.tensor(log_snr, dtype=torch.float64)))

    def __call__(self, log_snr: float) -> float:
        return self.low + (self.high - self.low) * self._time(log_snr)


@dataclass(frozen=True)
class CosineScale(LinearScale):
    """As `LinearScale`, but along (1 - cos(pi t)) / 2: flat at both ends."""

    def _time(self, log_snr: float) -> float:
        return (1 - math.cos(math.pi * super()._time(log_snr))) / 2


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_number(value: float, name: str) -> None:
    """ValueError unless `value` is a finite number."""
    if not _is_number(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_scale(scale: Scale, name: str = "guidance.scale") -> None:
    """ValueError unless `scale` is a finite number or a callable."""
    if not (_is_number(scale) or callable(scale)):
        raise ValueError(f"{name} must be a finite number or a function of the log-SNR, got {scale!r}")


def scale_at(scale: Scale, log_snr: float) -> float:
    """The number `scale` is at a level. ValueError where a function does not return a finite one."""
    if not callable(scale):
        return scale
    value = float(scale(log_snr))
    if not math.isfinite(value):
        raise ValueError(f"guidance.scale must be finite at every noise level, got {value} at log-SNR {log_snr:.2f}")
    return value


def shown(scale: Scale) -> str:
    return f"{scale:g}" if not callable(scale) else getattr(scale, "__name__", type(scale).__name__)
