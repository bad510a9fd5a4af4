"""Keeping guided pixels in their range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dit.diffusion.path import per_image
from dit.diffusion.prediction import Prediction
from dit.solvers.guidance.rule import Modifier, Pass, Stage


@dataclass(frozen=True)
class DynamicThreshold(Modifier):
    """Clamps x0 to a quantile of its magnitude, per image, and scales it into -limit ... limit (Saharia et al. 2022,
    section 2.3). eps follows from the new x0. For pixels in -1 ... 1; latents have no such range.
    """

    quantile: float = 0.995
    limit: float = 1.0

    def __post_init__(self, scale: Any) -> None:
        super().__post_init__(scale)
        if not (0 < self.quantile <= 1 and self.limit > 0):
            raise ValueError(
                f"guidance needs 0 < quantile <= 1 and limit > 0, got quantile={self.quantile} and limit={self.limit}"
            )

    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        guided = self.inner.combine(predictions, stage)
        x0 = guided.x0
        magnitude = x0.flatten(1).abs()  # [B, D]
        size = per_image(torch.quantile(magnitude, self.quantile, dim=1).clamp(min=self.limit), x0)
        clamped = replace(guided, kind="x0", native=x0.clamp(-size, size) * (self.limit / size)).view(guided.kind)
        # An image in range stays what it was, to the bit; to ask which are would wait for the device.
        outside = per_image(magnitude.amax(1) > self.limit, x0)
        return guided.with_native(torch.where(outside, clamped, guided.native))  # [B, *D]
