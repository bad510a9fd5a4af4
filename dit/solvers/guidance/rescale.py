"""Bringing the contrast of a guided prediction back to the conditional one's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from dit.diffusion.path import per_image
from dit.diffusion.prediction import Kind, Prediction, check_kind
from dit.solvers.guidance.rule import COND, Modifier, Pass, Stage, says_nothing


@dataclass(frozen=True)
class Rescale(Modifier):
    """Multiplies `inner`'s prediction by phi std(cond)/std(guided) + 1 - phi, per image (Lin et al. 2024, eq. 15-16).

    A standard deviation is not the same thing in every kind, so the space is named: a kind, or "native" for the
    network's own. In eps the rule does nothing at pure noise; x0, the default, is where contrast is seen.
    """

    phi: float = 0.7
    space: Kind | Literal["native"] = "x0"

    def __post_init__(self, scale: Any) -> None:
        super().__post_init__(scale)
        if not 0 <= self.phi <= 1:
            raise ValueError(f"guidance.phi must lie between 0 and 1, got {self.phi}")
        if self.space != "native":
            check_kind(self.space, "guidance.space")

    def passes(self, stage: Stage) -> tuple[Pass, ...]:
        wanted = self.inner.passes(stage)
        return wanted if self.phi == 0 or not wanted or COND in wanted else (COND, *wanted)

    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        guided, cond = self.inner.combine(predictions, stage), predictions.get(COND)
        if self.phi == 0 or cond is None or guided is cond:
            return guided
        kind = cond.kind if self.space == "native" else self.space
        if says_nothing(kind, stage):
            return guided
        target, ours = cond.view(kind), guided.view(kind)  # [B, *D]
        stds = [per_image(view.flatten(1).std(1), view) for view in (target, ours)]
        # A prediction without contrast stays as it is.
        factor = torch.where(stds[1] > 0, self.phi * stds[0] / stds[1] + 1 - self.phi, 1.0)
        return replace(guided, kind=kind, native=factor * ours)
