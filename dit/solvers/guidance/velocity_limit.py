"""A limit on the velocity that follows from a denoised picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dit.diffusion.prediction import Prediction, check_positive
from dit.solvers.guidance.rule import Modifier, Pass, Stage


@dataclass(frozen=True)
class VelocityLimit(Modifier):
    """`inner`, with the factor from x0 to velocity limited to max_gain (Li and He 2025, JiT).

    On a flow velocity is (x - x0) / t, and max_gain 20 is JiT's (x - x0) / max(t, 0.05): below t = 1 / max_gain the
    velocity is multiplied by t max_gain, so that some noise stays in the picture. Where a network was trained under
    `loss.max_gain`, its error there is what that limit made of it; JiT keeps the limit in sampling.
    """

    max_gain: float = 20.0

    def __post_init__(self, scale: Any) -> None:
        super().__post_init__(scale)
        check_positive(self.max_gain, "guidance.max_gain")

    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        found, c = self.inner.combine(predictions, stage), stage.coefficients
        share = self.max_gain / float((c.d_alpha - c.d_sigma * c.alpha / c.sigma).abs())
        if share >= 1:
            return found
        return found.with_native(replace(found, native=share * found.velocity, kind="velocity").view(found.kind))
