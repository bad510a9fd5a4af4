"""Time grids: n steps are n + 1 noise levels, falling from noise to data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dit.diffusion.path import GaussianPath
from dit.diffusion.table import DiscreteVP


@dataclass(frozen=True)
class Grid(ABC):
    """Where the steps of a trajectory lie; defined by noise levels, so that it means the same on every path.

    final: "zero" ends at clean data, "min" at the smallest level there is: the table's first entry, or the last level
    that the grid itself names.
    """

    final: Literal["zero", "min"] = field(default="zero", kw_only=True)

    def __post_init__(self) -> None:
        if self.final not in ("zero", "min"):
            raise ValueError(f"grid.final must be zero or min, got {self.final!r}")

    def __call__(self, path: GaussianPath, steps: int) -> Tensor:
        """t [steps + 1] in float64 on the CPU, strictly falling.

        Raises ValueError for steps < 1, or where `path` cannot tell the levels apart.
        """
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be at least 1, and whole, got {steps}")
        if self.final == "zero":
            grid = torch.cat([self.levels(path, steps), torch.zeros(1, dtype=torch.float64)])
        else:
            grid = self.levels_to_min(path, steps)
        check_grid(grid)
        return grid

    @abstractmethod
    def levels(self, path: GaussianPath, count: int) -> Tensor:
        """The `count` noise levels from which the steps start, t in float64."""

    def levels_to_min(self, path: GaussianPath, steps: int) -> Tensor:
        """t [steps + 1] ending above clean data."""
        first = torch.full((1,), 1 / _table(path, "grid.final=min").num_steps, dtype=torch.float64)
        return torch.cat([self.levels(path, steps), first])


@dataclass(frozen=True)
class UniformGrid(Grid):
    """Equal steps in t from 1 to 0. On a table whose length `steps` divides, all levels are table entries
    ("trailing" spacing).

    last: t of the last level above clean data, which then takes one step of its own: SiT and REPA walk their SDE down
    to 0.04 by equal steps, and from there to 0. None: all steps are equal.
    """

    last: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last is not None and not 0 < self.last < 1:
            raise ValueError(f"grid.last must lie between 0 and 1, or be null, got {self.last}")

    def levels(self, path: GaussianPath, count: int) -> Tensor:
        if self.last is not None:
            return torch.linspace(1, self.last, count, dtype=torch.float64)
        return torch.linspace(1, 0, count + 1, dtype=torch.float64)[:-1]

    def levels_to_min(self, path: GaussianPath, steps: int) -> Tensor:
        return super().levels_to_min(path, steps) if self.last is None else self.levels(path, steps + 1)


@dataclass(frozen=True)
class TableGrid(Grid):
    """Entries of a table of T betas, by the names of diffusers (Lin et al. 2024, table 2).

    trailing: T, T - T/n, ...: the last entry first. leading: 0, T//n, 2 T//n, ... plus `offset`; never reaches the
    last entry unless n = T, so a path that ends there is started too clean. linspace: n entries from the first to the
    last (the last alone for n = 1).

    DiT's respacing (that of guided-diffusion) calls linspace "n", such as "250", and leading "ddimn", such as
    "ddim250", for an n that divides T; for others its stride is T/n rounded up, ours rounded down as in diffusers.
    """

    spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    offset: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spacing not in ("trailing", "leading", "linspace"):
            raise ValueError(
                f"grid.spacing must be trailing, leading (ddimN in DiT) or linspace (N in DiT), got {self.spacing!r}"
            )
        if self.offset and self.spacing != "leading":
            raise ValueError(f"grid.offset belongs to leading spacing, got {self.offset} with {self.spacing}")

    def levels(self, path: GaussianPath, count: int) -> Tensor:
        entries = _table(path, f"grid.spacing={self.spacing}").num_steps
        if count > entries:
            raise ValueError(f"steps must be at most {entries}, the entries of the table, got {count}")
        numbers = torch.arange(count, dtype=torch.float64)
        if self.spacing == "trailing":
            index = (entries - numbers * (entries / count)).round() - 1
        elif self.spacing == "leading":
            index = numbers.flip(0) * (entries // count) + self.offset
        else:
            index = (
                (numbers.flip(0) * ((entries - 1) / max(count - 1, 1))).round() if count > 1 else numbers + entries - 1
            )
        return (index + 1) / entries

    def levels_to_min(self, path: GaussianPath, steps: int) -> Tensor:
        # These two begin counting at the first entry and so end there by themselves.
        ends_there = self.spacing == "linspace" or (self.spacing == "leading" and self.offset == 0)
        return self.levels(path, steps + 1) if ends_there else super().levels_to_min(path, steps)


def smallest_t(path: GaussianPath) -> Tensor:
    """The lowest level a network was trained at: a table's first entry, else clean data."""
    return torch.tensor(1 / path.num_steps if isinstance(path, DiscreteVP) else 0.0, dtype=torch.float64)


def _table(path: GaussianPath, what: str) -> DiscreteVP:
    if not isinstance(path, DiscreteVP):
        raise ValueError(f"{what} needs a path made of a table of betas, got {path.spec['name']}")
    return path


@dataclass(frozen=True)
class ShiftedGrid(Grid):
    """Equal steps in t with sigma/alpha multiplied by `shift` (Esser et al. 2024, eq. 23): above 1, more near noise.

    Made for paths that reach pure noise; a table has no levels beyond its last.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("grid.shift", self.shift)

    def levels(self, path: GaussianPath, count: int) -> Tensor:
        t = torch.linspace(1, 0, count + 1, dtype=torch.float64)[:-1]
        t[1:] = path.t_from_log_snr(path.log_snr(t[1:]) - 2 * math.log(self.shift))
        return t


@dataclass(frozen=True)
class LogSNRGrid(Grid):
    """Equal steps of log-SNR from `first` to `last`, or as far as the path or its table go, then clean data."""

    first: float = -10.0
    last: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.first < self.last:
            raise ValueError(f"grid.first must be below grid.last, as noise comes first, got {self.first}, {self.last}")

    def levels(self, path: GaussianPath, count: int) -> Tensor:
        first = max(self.first, float(path.log_snr(torch.ones((), dtype=torch.float64))))
        last = min(self.last, float(path.log_snr(smallest_t(path))))
        return path.t_from_log_snr(torch.linspace(first, last, count, dtype=torch.float64))

    def levels_to_min(self, path: GaussianPath, steps: int) -> Tensor:
        return self.levels(path, steps + 1)


@dataclass(frozen=True)
class KarrasGrid(Grid):
    """Equal steps of (sigma/alpha)^(1/rho) from `u_max` to `u_min`, or as far as the path or its table go, then clean
    data (Karras et al. 2022, eq. 5)."""

    rho: float = 7.0
    u_max: float = 80.0
    u_min: float = 0.002

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("grid.rho", self.rho)
        if not 0 < self.u_min < self.u_max:
            raise ValueError(f"grid.u_min must lie between 0 and grid.u_max={self.u_max}, got {self.u_min}")

    def levels(self, path: GaussianPath, count: int) -> Tensor:
        u_first = min(self.u_max, math.exp(-float(path.log_snr(torch.ones((), dtype=torch.float64))) / 2))
        u_last = max(self.u_min, math.exp(-float(path.log_snr(smallest_t(path))) / 2))
        ends = u_first ** (1 / self.rho), u_last ** (1 / self.rho)
        return path.t_from_log_snr(-2 * self.rho * torch.linspace(*ends, count, dtype=torch.float64).log())

    def levels_to_min(self, path: GaussianPath, steps: int) -> Tensor:
        return self.levels(path, steps + 1)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


_GRIDS: dict[str, Callable[..., Grid]] = {
    "uniform": UniformGrid,
    "shifted": ShiftedGrid,
    "uniform_log_snr": LogSNRGrid,
    "karras": KarrasGrid,
    "trailing": partial(TableGrid, "trailing"),
    "leading": partial(TableGrid, "leading"),
    "linspace": partial(TableGrid, "linspace"),
}


def make_grid(path: GaussianPath, steps: int, spacing: str = "uniform", **options: Any) -> Tensor:
    """t [steps + 1] of the grid named `spacing`, with its own options; see the classes above.

    Raises ValueError for an unknown spacing and for what the grids refuse.
    """
    if spacing not in _GRIDS:
        raise ValueError(f"spacing must be one of {', '.join(_GRIDS)}, got {spacing!r}")
    try:
        grid = _GRIDS[spacing](**options)
    except TypeError as error:
        raise ValueError(f"grid {spacing} has no such option, got {', '.join(options)}") from error
    return grid(path, steps)


def check_grid(grid: Tensor) -> None:
    """ValueError unless `grid` is one-dimensional, inside [0, 1] and strictly falling."""
    falls = grid.ndim == 1 and len(grid) >= 2 and bool((grid[1:] < grid[:-1]).all())
    if not (falls and float(grid[0]) <= 1 and float(grid[-1]) >= 0):
        shown = [round(float(t), 4) for t in grid.flatten()[:4]]
        raise ValueError(f"grid must fall strictly inside [0, 1] over at least two levels, got {shown}...")
