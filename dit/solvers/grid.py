"""Time grids: n steps are n + 1 noise levels, falling from noise to data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dit.diffusion.path import GaussianPath


class Grid(ABC):
    """Where the steps of a trajectory lie; defined by noise levels, so that it means the same on every path."""

    def __call__(self, path: GaussianPath, steps: int) -> Tensor:
        """t [steps + 1] in float64 on the CPU, strictly falling, last entry exactly 0.

        Raises ValueError for steps < 1, or where `path` cannot tell the levels apart.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        grid = self.levels(path, steps)
        check_grid(grid)
        return grid

    @abstractmethod
    def levels(self, path: GaussianPath, steps: int) -> Tensor:
        """t [steps + 1] in float64."""


@dataclass(frozen=True)
class UniformGrid(Grid):
    """Equal steps in t from 1 to 0. On a table whose length `steps` divides, all levels are table entries
    ("trailing" spacing)."""

    def levels(self, path: GaussianPath, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


@dataclass(frozen=True)
class ShiftedGrid(Grid):
    """Equal steps in t with sigma/alpha multiplied by `shift` (Esser et al. 2024, eq. 23): above 1, more near noise.

    Made for paths that reach pure noise; a table has no levels beyond its last.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        _check_positive("grid.shift", self.shift)

    def levels(self, path: GaussianPath, steps: int) -> Tensor:
        t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        t[1:-1] = path.t_from_log_snr(path.log_snr(t[1:-1]) - 2 * math.log(self.shift))
        return t


@dataclass(frozen=True)
class LogSNRGrid(Grid):
    """Equal steps of log-SNR from `first` (noisy, or where the path begins) to `last`, then clean data."""

    first: float = -10.0
    last: float = 8.0

    def __post_init__(self) -> None:
        if not self.first < self.last:
            raise ValueError(f"grid.first must be below grid.last, as noise comes first, got {self.first}, {self.last}")

    def levels(self, path: GaussianPath, steps: int) -> Tensor:
        first = max(self.first, float(path.log_snr(torch.ones((), dtype=torch.float64))))
        return _then_clean(path, torch.linspace(first, self.last, steps, dtype=torch.float64))


@dataclass(frozen=True)
class KarrasGrid(Grid):
    """Equal steps of (sigma/alpha)^(1/rho) from `u_max` to `u_min`, then clean data (Karras et al. 2022, eq. 5)."""

    rho: float = 7.0
    u_max: float = 80.0
    u_min: float = 0.002

    def __post_init__(self) -> None:
        _check_positive("grid.rho", self.rho)
        if not 0 < self.u_min < self.u_max:
            raise ValueError(f"grid.u_min must lie between 0 and grid.u_max={self.u_max}, got {self.u_min}")

    def levels(self, path: GaussianPath, steps: int) -> Tensor:
        u_first = min(self.u_max, math.exp(-float(path.log_snr(torch.ones((), dtype=torch.float64))) / 2))
        ends = u_first ** (1 / self.rho), self.u_min ** (1 / self.rho)
        return _then_clean(path, -2 * self.rho * torch.linspace(*ends, steps, dtype=torch.float64).log())


def _then_clean(path: GaussianPath, log_snr: Tensor) -> Tensor:
    return torch.cat([path.t_from_log_snr(log_snr), torch.zeros(1, dtype=torch.float64)])


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


_GRIDS: dict[str, type[Grid]] = {
    "uniform": UniformGrid,
    "shifted": ShiftedGrid,
    "log_snr": LogSNRGrid,
    "karras": KarrasGrid,
}


def make_grid(path: GaussianPath, steps: int, spacing: str = "uniform", **options: Any) -> Tensor:
    """t [steps + 1] of the grid named `spacing`, with its own options; see the classes above.

    Raises ValueError for an unknown spacing and for what the grids refuse.
    """
    if spacing not in _GRIDS:
        raise ValueError(f"spacing must be one of {', '.join(_GRIDS)}, got {spacing!r}")
    return _GRIDS[spacing](**options)(path, steps)


def check_grid(grid: Tensor) -> None:
    """ValueError unless `grid` is one-dimensional, inside [0, 1] and strictly falling."""
    falls = grid.ndim == 1 and len(grid) >= 2 and bool((grid[1:] < grid[:-1]).all())
    if not (falls and float(grid[0]) <= 1 and float(grid[-1]) >= 0):
        shown = [round(float(t), 4) for t in grid.flatten()[:4]]
        raise ValueError(f"grid must fall strictly inside [0, 1] over at least two levels, got {shown}...")
