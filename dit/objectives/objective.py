"""WHAT AN OBJECTIVE IS: it owns the forward pass, and says what each picture's error is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dit.diffusion import Denoiser, GaussianPath, Prediction
from dit.objectives.loss import Loss


@dataclass(frozen=True)
class Losses:
    """per_sample: [B], what is minimised; parts: what it is made of, [B] or scalars by name, to be logged."""

    per_sample: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """objective(denoiser, x0, eps, t, labels, conditions, absent) -> Losses.

    It calls the denoiser as often and where it wants, and may ask it for features. learns_variance: whether it trains
    the second half of a doubled output. One that has weights of its own is an `nn.Module` as well.
    """

    learns_variance = False

    def check(self, denoiser: Denoiser) -> None:  # noqa: B027
        """ValueError, before the first step, where this denoiser cannot be trained so."""

    @abstractmethod
    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        t: Tensor,
        labels: Tensor,
        conditions: Mapping[str, Tensor],
        absent: Mapping[str, Tensor],
    ) -> Losses:
        """Of pictures x0 [B, *D] with noise eps [B, *D] at times t [B], labels [B] in which those that training drops
        are the null label, conditions [B, ...] by name, and [B] bool where one is dropped."""


class Comparison(Objective):
    """A single prediction at x_t, compared with what is behind it: subclasses say how."""

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        t: Tensor,
        labels: Tensor,
        conditions: Mapping[str, Tensor],
        absent: Mapping[str, Tensor],
    ) -> Losses:
        x = denoiser.path.interpolate(x0, eps, t)  # [B, *D]
        told: dict[str, Any] = {**conditions, "absent": absent}
        return self.compare(denoiser(x, t, labels, **told), denoiser.path, x0, eps)

    @abstractmethod
    def compare(self, prediction: Prediction, path: GaussianPath, x0: Tensor, eps: Tensor) -> Losses:
        """Of a prediction at x_t on this path, and the true x0 [B, *D] and eps [B, *D]."""


@dataclass(frozen=True)
class Denoising(Comparison):
    """All that a `Loss` sees is minimised."""

    loss: Loss

    def compare(self, prediction: Prediction, path: GaussianPath, x0: Tensor, eps: Tensor) -> Losses:
        return Losses(self.loss(prediction, x0, eps))  # [B]


def as_objective(loss: Loss | Objective) -> Objective:
    """An objective as it is; a loss as the one that compares a single prediction."""
    return loss if isinstance(loss, Objective) else Denoising(loss)


def check_features(denoiser: Denoiser, names: tuple[str, ...]) -> None:
    """ValueError unless the network returns these features where it is asked."""
    offered = getattr(denoiser.network, "features", ())
    if missing := [name for name in names if name not in offered]:
        known = f"it has {', '.join(offered)}" if offered else "it has none"
        raise ValueError(f"the objective asks for the network's feature {missing[0]}, but {known}")
