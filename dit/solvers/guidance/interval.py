"""Guidance in an interval of noise levels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dit.diffusion.prediction import Prediction
from dit.solvers.guidance.rule import Denoise, StepContext, Wrapper


@dataclass(frozen=True)
class Interval(Wrapper):
    """`inner` while the step starts at a log-SNR in [low, high), the conditional prediction outside (Kynkaanniemi et
    al. 2024). Decided once a step, so that all stages of a step agree; outside, only one pass is computed.
    """

    log_snr: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.log_snr
        if not low < high:
            raise ValueError(f"guidance.log_snr must be (low, high) with low < high, got ({low}, {high})")

    def __call__(
        self, denoise: Denoise, x: Tensor, t: Tensor, labels: Tensor | None, context: StepContext
    ) -> Prediction:
        low, high = self.log_snr
        if low <= context.log_snr < high:
            return self.inner(denoise, x, t, labels, context)
        return denoise(x, t, labels)
