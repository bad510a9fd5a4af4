"""Single-step solvers of the probability-flow ODE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from dit.diffusion.path import Coefficients
from dit.solvers.solver import Solver


@dataclass(frozen=True)
class Euler(Solver):
    """DDIM (Song et al. 2021, eq. 12 with eta 0): keep the predicted eps and x0, change their mixture.

    The same update as Euler on dz/du = eps with z = x/alpha, u = sigma/alpha, and as Euler on the velocity of a
    rectified flow. Written on the mixture it is exact where u is infinite and where it is 0.
    """

    order = 1
    evaluations = 1

    def step(self, predict, path, x, t, t_next, state, noise):
        c = path.coefficients(t_next).like(x)
        return predict(x, t).combine(c.alpha, c.sigma), state


@dataclass(frozen=True)
class RungeKutta(Solver):
    """An explicit Runge-Kutta step on dy/ds = slope, in a frame in which every Gaussian path reads the same.

    clock="rectified": y = x / (alpha + sigma), s = sigma / (alpha + sigma), slope = eps - x0. Finite from pure noise
    (s = 1) to data (s = 0), whatever the path.
    clock="u": y = x / alpha, s = u = sigma / alpha, slope = eps (Karras et al. 2022, eq. 1 with sigma(t) = t). A step
    from infinite u is made in the rectified frame; a large finite one wants a grid made for u, such as Karras'.

    The nodes are fractions of the clock, not of t: with the middle stage at the middle of t, RK4 is of order 2.
    A step that ends at clean data is an Euler step, as no network is trained to be asked there.
    """

    nodes: ClassVar[tuple[float, ...]]
    matrix: ClassVar[tuple[tuple[float, ...], ...]]
    weights: ClassVar[tuple[float, ...]]

    clock: Literal["rectified", "u"] = "rectified"

    def __post_init__(self) -> None:
        if self.clock not in ("rectified", "u"):
            raise ValueError(f"solver.clock must be rectified or u, got {self.clock!r}")

    def step(self, predict, path, x, t, t_next, state, noise):
        here, there = path.coefficients(t), path.coefficients(t_next)
        if float(there.sigma) == 0:
            return predict(x, t).x0, state
        by_u = self.clock == "u" and float(here.alpha) > 0

        def scale(c: Coefficients) -> Tensor:
            return c.alpha if by_u else c.alpha + c.sigma

        begin, end = here.sigma / scale(here), there.sigma / scale(there)
        y, slopes = x / scale(here.like(x)), []
        for node, row in zip(self.nodes, self.matrix, strict=True):
            stage_t, stage_x = t, x
            if node > 0:
                at = begin + node * (end - begin)
                stage_t = t_next if node == 1 else path.t_from_log_snr(-2 * (at if by_u else at / (1 - at)).log())
                stage_y = y + (end - begin) * sum(a * slope for a, slope in zip(row, slopes, strict=True))
                stage_x = scale(path.coefficients(stage_t).like(x)) * stage_y  # [B, *D]
            slopes.append(predict(stage_x, stage_t).combine(0 if by_u else -1, 1))  # [B, *D]
        rise = sum(b * slope for b, slope in zip(self.weights, slopes, strict=True))
        return scale(there.like(x)) * (y + (end - begin) * rise), state


@dataclass(frozen=True)
class Heun(RungeKutta):
    """Explicit trapezoid (Karras et al. 2022, algorithm 1 without noise): 2n - 1 evaluations for n steps."""

    order = 2
    evaluations = 2
    nodes = (0.0, 1.0)
    matrix = ((), (1.0,))
    weights = (0.5, 0.5)


@dataclass(frozen=True)
class Midpoint(RungeKutta):
    """Explicit midpoint: 2n - 1 evaluations for n steps."""

    order = 2
    evaluations = 2
    nodes = (0.0, 0.5)
    matrix = ((), (0.5,))
    weights = (0.0, 1.0)


@dataclass(frozen=True)
class RK4(RungeKutta):
    """The classical method of order 4: 4n - 3 evaluations for n steps. "rk4" of torchdiffeq is `RK38`."""

    order = 4
    evaluations = 4
    nodes = (0.0, 0.5, 0.5, 1.0)
    matrix = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


@dataclass(frozen=True)
class RK38(RungeKutta):
    """Kutta's 3/8 rule, of order 4 as well: what torchdiffeq, and who samples with it, calls "rk4"."""

    order = 4
    evaluations = 4
    nodes = (0.0, 1 / 3, 2 / 3, 1.0)
    matrix = ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0))
    weights = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
