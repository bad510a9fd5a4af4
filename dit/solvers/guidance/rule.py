"""What a guidance rule is: which passes it needs at a noise level, and how it combines their predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dit.diffusion.path import Coefficients, GaussianPath
from dit.diffusion.prediction import Prediction


class Denoise(Protocol):
    """What sampling needs of a denoiser: `dit.diffusion.Denoiser`, or anybody's callable with these two facts.

    null_label: the label of "no class", None where the model has no unconditional prediction. labels=None asks for it.
    Conditions, where `sample` is given any, are handed over by name.
    """

    path: GaussianPath
    null_label: int | None

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None, **conditions: Any) -> Prediction: ...


@dataclass(frozen=True)
class Pass:
    """One network row per image: with the image's own label, with no class (None) or with a class for all images.

    network: "model" is the sampled one; other names are those of `Guidance.networks`. drop: conditions of the image, by
    name, that this row is not told; EVERYTHING for all that a picture may lack, by the denoiser's `optional`.
    """

    label: int | Literal["own"] | None = "own"
    network: str = "model"
    drop: frozenset[str] = frozenset()

    def drops(self, name: str, denoiser: Denoise) -> bool:
        """Whether its row of `denoiser` is not told the condition `name`."""
        return name in self.drop or (self.drop == EVERYTHING and name in (getattr(denoiser, "optional", None) or ()))


EVERYTHING = frozenset(("*",))
COND, UNCOND = Pass(), Pass(None, drop=EVERYTHING)


@dataclass(frozen=True)
class StepContext:
    """The step a prediction is made for; the same object for all stages of that step.

    index of steps; t and t_next: scalars, start and end of the step; x: [B, *D] at the start; true_noise: [B, *D], the
    unit-variance noise inside x, and initial_noise, the one at the start of the trajectory, None where nobody knows it.
    order and stochastic: of the solver. memory: of rules that have a state, for one trajectory.
    """

    index: int
    steps: int
    path: GaussianPath
    t: Tensor
    t_next: Tensor
    x: Tensor
    true_noise: Tensor | None
    initial_noise: Tensor | None = None
    order: int = 1
    stochastic: bool = False
    memory: dict[int, Any] = field(default_factory=dict)

    @property
    def log_snr(self) -> float:
        """Log-SNR at the start of the step; -inf at pure noise."""
        return float(self.path.log_snr(self.t))

    @property
    def log_snr_next(self) -> float:
        """Log-SNR at the end of the step; +inf at clean data."""
        return float(self.path.log_snr(self.t_next))


@dataclass(frozen=True)
class Stage:
    """One evaluation inside a step: x [B, *D] at t (scalar), labels [B] or None, conditions [B, ...] by name. first: of
    its step.

    true_noise: what is in this x, or None where nobody knows; that of the step, unless the solver has drawn since.
    """

    step: StepContext
    x: Tensor
    t: Tensor
    labels: Tensor | None
    first: bool = True
    true_noise: Tensor | None = None
    conditions: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def log_snr(self) -> float:
        return float(self.step.path.log_snr(self.t))

    @property
    def coefficients(self) -> Coefficients:
        """At t, broadcasting over x."""
        return self.step.path.coefficients(self.t).like(self.x)

    def signal(self, noise: Tensor) -> Tensor:
        """The signal accumulated so far, y in x = alpha y + sigma noise [B, *D]; 0 where alpha is 0."""
        c = self.coefficients
        return torch.zeros_like(self.x) if float(c.alpha) == 0 else (self.x - c.sigma * noise) / c.alpha


class Guidance(ABC):
    """Several predictions at one x become one. Rules nest: a wrapper holds an inner rule."""

    @property
    def needs_noise(self) -> bool:
        """Whether the rule must know the noise the trajectory started from."""
        return False

    @property
    def networks(self) -> Mapping[str, Denoise]:
        """Networks beside the sampled one, by the name passes ask for them."""
        return {}

    @property
    def uses_labels(self) -> bool:
        """Whether a picture is of its own label; else scores by class say nothing."""
        return True

    @abstractmethod
    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        """ValueError, before the first network call, where this denoiser or these labels cannot be guided so."""

    @abstractmethod
    def with_scale(self, scale: float) -> Guidance:
        """The same rule at another guidance scale."""

    @abstractmethod
    def passes(self, stage: Stage) -> tuple[Pass, ...]:
        """What must be evaluated at this stage; a pass that is not asked for is not computed."""

    @abstractmethod
    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        """The guided prediction from one prediction per pass, all at the stage's own x and t."""


class Linear(Guidance):
    """A weighted sum of predictions. Where the weights sum to one it is the same guidance in every kind, because all
    conversions are affine with the same x_t."""

    @abstractmethod
    def weights(self, stage: Stage) -> dict[Pass, float]:
        """What each pass counts at this stage; one that counts 0 is not computed."""

    def passes(self, stage: Stage) -> tuple[Pass, ...]:
        return tuple(p for p, weight in self.weights(stage).items() if weight != 0)

    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        weights = {p: weight for p, weight in self.weights(stage).items() if weight != 0}
        base = predictions[next(iter(weights))]
        if list(weights.values()) == [1]:
            return base
        return base.with_native(sum_of(weights, predictions, base))


def sum_of(weights: Mapping[Pass, float], predictions: Mapping[Pass, Prediction], base: Prediction) -> Tensor:
    """The weighted sum [B, *D] of predictions in base's kind."""
    total = torch.zeros_like(base.native)
    for which, weight in weights.items():
        each = predictions[which]
        same = (each.kind, each.sigma_data) == (base.kind, base.sigma_data)
        total = total + weight * (each.native if same else each.combine(*base.parts(base.kind)))
    return total


@dataclass(frozen=True)
class Wrapper(Guidance):
    """A rule around another: what it does not say is what `inner` says."""

    inner: Guidance

    @property
    def needs_noise(self) -> bool:
        return self.inner.needs_noise

    @property
    def uses_labels(self) -> bool:
        return self.inner.uses_labels

    @property
    def networks(self) -> Mapping[str, Denoise]:
        return self.inner.networks

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        self.inner.check(denoiser, labels)

    def with_scale(self, scale: float) -> Guidance:
        return replace(self, inner=self.inner.with_scale(scale))

    def passes(self, stage: Stage) -> tuple[Pass, ...]:
        return self.inner.passes(stage)


@dataclass(frozen=True)
class Modifier(Wrapper):
    """A wrapper that has no scale of its own. scale: short for that of the rule in it which has one, however deep."""

    scale: InitVar[Any] = field(default=None, kw_only=True)

    def __post_init__(self, scale: Any) -> None:
        if scale is not None:
            object.__setattr__(self, "inner", self.inner.with_scale(scale))


def says_nothing(kind: str, stage: Stage) -> bool:
    """Whether a prediction of this kind is the same for every network: eps and score where alpha is 0."""
    return kind in ("eps", "score") and float(stage.coefficients.alpha) == 0


def check_classes(rule: str, denoiser: Denoise, labels: Tensor | None, needs_null: bool = True) -> None:
    """ValueError where `rule`, as the user wrote it, lacks class labels or a prediction without class."""
    if labels is None:
        raise ValueError(f"{rule} needs class labels; an unconditional sample takes scale 1")
    if needs_null and getattr(denoiser, "null_label", None) is None:
        raise ValueError(
            f"{rule} needs a prediction without class, which this model never learned: "
            "it was trained with dropout.class 0, so only guidance.scale=1 is allowed"
        )


def check_label(name: str, label: int, denoiser: Denoise) -> None:
    """ValueError unless `label` is a class of the model, as far as it tells how many it has."""
    null = getattr(denoiser, "null_label", None)
    whole = isinstance(label, int) and not isinstance(label, bool)
    if not whole or label < 0 or (null is not None and label >= null):
        raise ValueError(f"{name}={label} must be a label of the model, 0 ... {'' if null is None else null - 1}")
