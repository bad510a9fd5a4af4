"""Adaptive projected guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dit.diffusion.path import per_image
from dit.diffusion.prediction import Kind, Prediction, check_kind
from dit.solvers.guidance.rule import COND, UNCOND, Denoise, Guidance, Pass, Stage, check_classes, says_nothing
from dit.solvers.guidance.scale import Scale, check_number, check_scale, scale_at, shown


@dataclass(frozen=True)
class APG(Guidance):
    """cond + (scale - 1) d', d' = the guidance direction cond - uncond, tamed (Sadat et al. 2025, algorithm 1).

    In order: a running sum d + momentum * (sum before), advanced once a step; its norm limited to norm_threshold; its
    component along cond multiplied by eta. Norms and projections are per image, in the space named: x0 in the paper,
    or "native". eta 1, no threshold and momentum 0 is CFG.
    """

    scale: Scale = 1.0
    eta: float = 0.0
    norm_threshold: float | None = None
    momentum: float = -0.5
    space: Kind | Literal["native"] = "x0"

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_number(self.eta, "guidance.eta")
        check_number(self.momentum, "guidance.momentum")
        if self.norm_threshold is not None and not self.norm_threshold > 0:
            raise ValueError(f"guidance.norm_threshold must be positive or null, got {self.norm_threshold}")
        if self.space != "native":
            check_kind(self.space, "guidance.space")

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        if callable(self.scale) or self.scale != 1:
            check_classes(f"guidance.scale={shown(self.scale)}", denoiser, labels)

    def with_scale(self, scale: float) -> APG:
        return replace(self, scale=scale)

    def passes(self, stage: Stage) -> tuple[Pass, ...]:
        return (COND,) if scale_at(self.scale, stage.log_snr) == 1 else (COND, UNCOND)

    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        scale = scale_at(self.scale, stage.log_snr)
        if scale == 1:
            return predictions[COND]
        kind = predictions[COND].kind if self.space == "native" else self.space
        if says_nothing(kind, stage):
            return predictions[COND]
        cond, uncond = (predictions[p].view(kind) for p in (COND, UNCOND))
        direction = cond - uncond  # [B, *D]
        if self.momentum:
            direction = direction + self.momentum * self._before(stage, direction)
        if self.norm_threshold is not None:
            direction = direction * (self.norm_threshold / _not_zero(_inner(direction, direction)).sqrt()).clamp(max=1)
        parallel = _inner(direction, cond) / _not_zero(_inner(cond, cond)) * cond
        direction = direction + (self.eta - 1) * parallel
        return replace(predictions[COND], kind=kind, native=cond + (scale - 1) * direction)

    def _before(self, stage: Stage, direction: Tensor) -> Tensor | float:
        """The running sum of the steps before this one; the first stage of a step adds its own for the next."""
        memory = stage.step.memory
        before, after = memory.get(id(self), (0.0, 0.0))
        if stage.first:
            before, after = after, direction + self.momentum * after
            memory[id(self)] = before, after
        return before


def _not_zero(square: Tensor) -> Tensor:
    """Where a tensor is 0 there is nothing to limit and nothing to project on."""
    return square.clamp(min=torch.finfo(square.dtype).tiny)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each image, broadcasting over it."""
    return per_image((a * b).flatten(1).sum(1), a)
