"""What a guidance rule is and what it may know about the step it is used in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dit.diffusion.path import GaussianPath
from dit.diffusion.prediction import Prediction


class Denoise(Protocol):
    """What sampling needs of a denoiser: `dit.diffusion.Denoiser`, or anybody's callable with these two facts.

    null_label: the label of "no class", None where the model has no unconditional prediction. labels=None asks for it.
    """

    path: GaussianPath
    null_label: int | None

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Prediction: ...


@dataclass(frozen=True)
class StepContext:
    """The step a prediction is made for; the same object for all stages of that step.

    index of steps; t and t_next: scalars, start and end of the step; x: [B, *D] at the start; true_noise: [B, *D],
    the unit-variance noise inside x. order: of the solver.
    """

    index: int
    steps: int
    path: GaussianPath
    t: Tensor
    t_next: Tensor
    x: Tensor
    true_noise: Tensor
    order: int = 1

    @property
    def log_snr(self) -> float:
        """Log-SNR at the start of the step; -inf at pure noise."""
        return float(self.path.log_snr(self.t))

    @property
    def log_snr_next(self) -> float:
        """Log-SNR at the end of the step; +inf at clean data."""
        return float(self.path.log_snr(self.t_next))

    def signal(self, x: Tensor, t: Tensor) -> Tensor:
        """The signal accumulated in a stage's x, y in x = alpha y + sigma true_noise [B, *D]; 0 where alpha is 0."""
        c = self.path.coefficients(t).like(x)
        if float(c.alpha) == 0:
            return torch.zeros_like(x)
        return (x - c.sigma * self.true_noise) / c.alpha


class Guidance(ABC):
    """Turns a denoiser into a guided one. Rules nest: a wrapper holds an inner rule and calls it."""

    @abstractmethod
    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        """ValueError, before the first network call, where this denoiser or these labels cannot be guided so."""

    @abstractmethod
    def with_scale(self, scale: float) -> Guidance:
        """The same rule at another guidance scale."""

    @abstractmethod
    def __call__(
        self, denoise: Denoise, x: Tensor, t: Tensor, labels: Tensor | None, context: StepContext
    ) -> Prediction:
        """The guided prediction at a stage's own x [B, *D] and t (scalar); labels [B] or None."""


@dataclass(frozen=True)
class Wrapper(Guidance):
    """A rule around another: what it does not say about scale and demands is what `inner` says."""

    inner: Guidance

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        self.inner.check(denoiser, labels)

    def with_scale(self, scale: float) -> Guidance:
        return replace(self, inner=self.inner.with_scale(scale))
