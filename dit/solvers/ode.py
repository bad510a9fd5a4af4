"""Solvers of the probability-flow ODE: one step each, the state a returned value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dit.diffusion.path import GaussianPath
from dit.diffusion.prediction import Prediction

Predict = Callable[[Tensor, Tensor], Prediction]
"""(x [B, *D], t scalar) -> Prediction: denoiser, labels and guidance are already bound."""


@dataclass(frozen=True)
class SolverState:
    """What a solver carries from step to step besides x.

    true_noise: [B, *D], the unit-variance noise now inside x. An ODE leaves it at the starting noise; a solver that
    injects noise returns it updated. memory: whatever else the solver needs (a multistep history).
    """

    true_noise: Tensor
    memory: Any = None


class Solver(ABC):
    """One step of the reverse process, from t down to t_next.

    order: global order of convergence. evaluations: calls of `predict` in a step that does not end at t = 0.
    """

    order: ClassVar[int]
    evaluations: ClassVar[int]

    def init(self, noise: Tensor) -> SolverState:
        """State before the first step, for the noise [B, *D] the trajectory starts from."""
        return SolverState(noise)

    @abstractmethod
    def step(
        self,
        predict: Predict,
        path: GaussianPath,
        x: Tensor,
        t: Tensor,
        t_next: Tensor,
        state: SolverState,
        noise: Callable[[], Tensor] | None,
    ) -> tuple[Tensor, SolverState]:
        """x at t_next. `noise()` draws [B, *D] for solvers that inject any; an ODE solver never calls it."""


@dataclass(frozen=True)
class Euler(Solver):
    """DDIM (Song et al. 2021, eq. 12 with eta 0): keep the predicted eps and x0, change their mixture.

    The same update as Euler on dz/du = eps with z = x/alpha, u = sigma/alpha, and as Euler on the velocity of a
    rectified flow. Written on the mixture it is exact where u is infinite and where it is 0.
    """

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1

    def step(self, predict, path, x, t, t_next, state, noise):
        c = path.coefficients(t_next).like(x)
        return predict(x, t).combine(c.alpha, c.sigma), state


@dataclass(frozen=True)
class Heun(Solver):
    """Explicit trapezoid (Karras et al. 2022, algorithm 1) in the rectified frame of any path.

    With y = x / (alpha + sigma) and the clock s = sigma / (alpha + sigma), every Gaussian path reads
    dy/ds = eps - x0, finite from pure noise (s = 1) to data (s = 0). A step that ends at s = 0 is an Euler step, as no
    network is trained to be asked there: n steps cost 2n - 1 evaluations.
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2

    def step(self, predict, path, x, t, t_next, state, noise):
        here, there = path.coefficients(t).like(x), path.coefficients(t_next).like(x)
        first = predict(x, t)
        euler = first.combine(there.alpha, there.sigma)
        if float(there.sigma) == 0:
            return euler, state
        slope = (first.combine(-1, 1) + predict(euler, t_next).combine(-1, 1)) / 2  # [B, *D]
        scale, scale_next = here.alpha + here.sigma, there.alpha + there.sigma
        elapsed = there.sigma / scale_next - here.sigma / scale
        return scale_next * (x / scale + elapsed * slope), state
