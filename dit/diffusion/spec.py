"""Paths from the plain containers they write into checkpoints and protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dit.diffusion.path import (
    GaussianPath,
    LinearFlow,
    Shifted,
    Trigonometric,
    VarianceExploding,
    VPContinuous,
)
from dit.diffusion.table import DiscreteVP

_PATHS: dict[str, Callable[..., GaussianPath]] = {
    "LinearFlow": LinearFlow,
    "Trigonometric": Trigonometric,
    "VPContinuous": VPContinuous,
    "VarianceExploding": VarianceExploding,
    "Shifted": lambda path, shift: Shifted(path_from_spec(path), shift),
    "DiscreteVP": DiscreteVP,
    "DiscreteVP.linear": DiscreteVP.linear,
    "DiscreteVP.scaled_linear": DiscreteVP.scaled_linear,
    "DiscreteVP.cosine": DiscreteVP.cosine,
    "DiscreteVP.sigmoid": DiscreteVP.sigmoid,
}


def path_from_spec(spec: dict[str, Any]) -> GaussianPath:
    """The path that wrote `spec`. ValueError for a name this version does not know."""
    arguments = dict(spec)
    name = arguments.pop("name", None)
    if name not in _PATHS:
        raise ValueError(f"path {name!r} is unknown; known are {', '.join(_PATHS)}")
    return _PATHS[name](**arguments)
