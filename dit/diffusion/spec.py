"""Paths from the plain containers they write into checkpoints and protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dit.checks import built
from dit.diffusion.path import (
    GaussianPath,
    LinearFlow,
    Shifted,
    Trigonometric,
    VarianceExploding,
    VPContinuous,
)
from dit.diffusion.table import DiscreteVP


def _shifted(path: dict[str, Any], shift: float = 3.0) -> Shifted:
    return Shifted(path_from_spec(path), shift)


def _table(betas: list[float], zero_terminal_snr: bool = False) -> DiscreteVP:
    return DiscreteVP(betas, zero_terminal_snr=zero_terminal_snr)


_PATHS: dict[str, Callable[..., GaussianPath]] = {
    "LinearFlow": LinearFlow,
    "Trigonometric": Trigonometric,
    "VPContinuous": VPContinuous,
    "VarianceExploding": VarianceExploding,
    "Shifted": _shifted,
    "DiscreteVP": _table,
    "DiscreteVP.linear": DiscreteVP.linear,
    "DiscreteVP.scaled_linear": DiscreteVP.scaled_linear,
    "DiscreteVP.cosine": DiscreteVP.cosine,
    "DiscreteVP.sigmoid": DiscreteVP.sigmoid,
}


def path_from_spec(spec: dict[str, Any]) -> GaussianPath:
    """The path that wrote `spec`.

    Raises ValueError for a name this version does not know, and for arguments that the path does not take.
    """
    try:
        return built("path", spec, _PATHS)
    except RecursionError:
        raise ValueError("path is nested too deeply") from None
