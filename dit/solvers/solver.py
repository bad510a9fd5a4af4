"""What a solver is: one step at a time, the state a returned value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dit.diffusion.path import GaussianPath
from dit.diffusion.prediction import Prediction
from dit.solvers.guidance.rule import Denoise


class Predict(Protocol):
    """Denoiser, labels and guidance in one: (x [B, *D], t scalar) -> Prediction.

    true_noise: [B, *D], what is in x, where the solver has renewed it since the step began.
    """

    def __call__(self, x: Tensor, t: Tensor, true_noise: Tensor | None = None, /) -> Prediction: ...


@dataclass(frozen=True)
class SolverState:
    """What a solver carries from step to step besides x.

    true_noise: [B, *D], the unit-variance noise now inside x, or None where nobody knows it. An ODE leaves it at the
    starting noise; a solver that injects noise returns it updated, see `renewed`. memory: whatever else the solver
    needs (a multistep history).
    """

    true_noise: Tensor | None
    memory: Any = None

    def renewed(self, share: Tensor | float, fresh: Tensor) -> SolverState:
        """After noise `fresh` [B, *D] became a `share` (0 to 1, of the variance) of all the noise in x."""
        if self.true_noise is None:
            return self
        share = torch.as_tensor(share, dtype=fresh.dtype).clamp(0, 1)  # a single number stays on the CPU
        return replace(self, true_noise=(1 - share).sqrt() * self.true_noise + share.sqrt() * fresh)


class Solver(ABC):
    """One step of the reverse process, from t down to t_next.

    order: the order the method is named by, and `convergence` the order it has. evaluations: calls of `predict` in a
    step that neither starts at pure noise nor ends at clean data. stochastic: whether it draws noise. couples_images:
    whether an image depends on the batch it is in.
    """

    order: int
    evaluations: int
    couples_images: bool = False

    @property
    def convergence(self) -> int:
        return self.order

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, noise: Tensor | None, grid: Tensor) -> SolverState:
        """State before the first step of `grid` [n + 1], for the noise [B, *D] the trajectory starts from."""
        return SolverState(noise)

    def check(self, denoiser: Denoise, grid: Tensor) -> None:  # noqa: B027
        """ValueError, before the first network call, where this denoiser or grid [n + 1] cannot be walked so."""

    @abstractmethod
    def step(
        self,
        predict: Predict,
        path: GaussianPath,
        x: Tensor,
        t: Tensor,
        t_next: Tensor,
        state: SolverState,
        noise: Callable[[], Tensor],
    ) -> tuple[Tensor, SolverState]:
        """x at t_next. `noise()` draws [B, *D] for solvers that inject any; an ODE solver never calls it."""
