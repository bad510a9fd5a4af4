"""Time grids: n steps are n + 1 noise levels, falling from noise to data."""

from __future__ import annotations

import torch
from torch import Tensor

from dit.diffusion.path import GaussianPath


def _uniform(path: GaussianPath, steps: int) -> Tensor:
    """Equal steps in t from 1 to 0. On a table whose length `steps` divides, all levels are table entries."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


_SPACINGS = {"uniform": _uniform}


def make_grid(path: GaussianPath, steps: int, spacing: str = "uniform") -> Tensor:
    """t [steps + 1] in float64 on the CPU, strictly falling, last entry exactly 0.

    Raises ValueError for steps < 1 or an unknown spacing.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if spacing not in _SPACINGS:
        raise ValueError(f"grid.spacing must be one of {', '.join(_SPACINGS)}, got {spacing!r}")
    return _SPACINGS[spacing](path, steps)


def check_grid(grid: Tensor) -> None:
    """ValueError unless `grid` is one-dimensional, inside [0, 1] and strictly falling."""
    falls = grid.ndim == 1 and len(grid) >= 2 and bool((grid[1:] < grid[:-1]).all())
    if not (falls and float(grid[0]) <= 1 and float(grid[-1]) >= 0):
        shown = [round(float(t), 4) for t in grid.flatten()[:4]]
        raise ValueError(f"grid must fall strictly inside [0, 1] over at least two levels, got {shown}...")
