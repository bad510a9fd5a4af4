"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit.checks import check_whole
from dit.diffusion.prediction import Prediction
from dit.solvers.guidance.rule import COND, UNCOND, Denoise, Linear, Pass, Stage, check_classes, check_label
from dit.solvers.guidance.scale import Scale, check_scale, scale_at, shown


@dataclass(frozen=True)
class CFG(Linear):
    """uncond + scale (cond - uncond) on all channels (Ho and Salimans 2022, eq. 6 with scale = w + 1).

    Scale 1 is the conditional prediction and 0 the unconditional one; both cost one pass. A function of the log-SNR
    is asked at each stage's own level.

    negative: a class to lead away from, in place of the unconditional prediction. channels: guide only the first so
    many and leave the others conditional, as published DiT and LightningDiT scores were made; an option for them alone.
    """

    scale: Scale = 1.0
    negative: int | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_whole("guidance.channels", self.channels, least=1, or_null=True)

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        if not callable(self.scale) and self.scale == 1:
            return
        check_classes(f"guidance.scale={shown(self.scale)}", denoiser, labels, needs_null=self.negative is None)
        if self.negative is not None:
            check_label("guidance.negative", self.negative, denoiser)

    def with_scale(self, scale: float) -> CFG:
        return replace(self, scale=scale)

    def weights(self, stage: Stage) -> dict[Pass, float]:
        scale = scale_at(self.scale, stage.log_snr)
        return {COND: scale, UNCOND if self.negative is None else Pass(self.negative): 1 - scale}

    def passes(self, stage: Stage) -> tuple[Pass, ...]:
        wanted = super().passes(stage)
        return wanted if self.channels is None or COND in wanted else (COND, *wanted)

    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        guided = super().combine(predictions, stage)
        if self.channels is None or len(predictions) == 1:
            return guided
        cond = predictions[COND]
        return cond.with_native(torch.cat([guided.native[:, : self.channels], cond.native[:, self.channels :]], dim=1))
