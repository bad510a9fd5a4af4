"""Guidance in an interval of noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dit.diffusion.prediction import Prediction
from dit.solvers.guidance.rule import COND, Modifier, Pass, Stage


@dataclass(frozen=True)
class Interval(Modifier):
    """`inner` while the step starts at a log-SNR in [low, high), the conditional prediction outside (Kynkaanniemi et
    al. 2024). Decided once a step, so that all stages of a step agree; outside, only one pass is computed.

    by: "stage" decides at the log-SNR of each evaluation instead, as JiT does: a corrector can be guided where its
    predictor was not.
    """

    log_snr: tuple[float, float]
    by: Literal["step", "stage"] = "step"

    def __post_init__(self, scale: Any) -> None:
        super().__post_init__(scale)
        if self.by not in ("step", "stage"):
            raise ValueError(f"guidance.by must be step or stage, got {self.by!r}")
        if len(self.log_snr) != 2 or not self.log_snr[0] < self.log_snr[1]:
            raise ValueError(f"guidance.log_snr must be (low, high) with low < high, got {tuple(self.log_snr)}")

    def _inside(self, stage: Stage) -> bool:
        low, high = self.log_snr
        return low <= (stage if self.by == "stage" else stage.step).log_snr < high

    def passes(self, stage: Stage) -> tuple[Pass, ...]:
        return self.inner.passes(stage) if self._inside(stage) else (COND,)

    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        return self.inner.combine(predictions, stage) if self._inside(stage) else predictions[COND]
