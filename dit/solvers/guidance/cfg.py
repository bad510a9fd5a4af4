"""Classifier-free guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit.diffusion.prediction import Prediction
from dit.solvers.guidance.rule import Denoise, Guidance, StepContext


@dataclass(frozen=True)
class CFG(Guidance):
    """uncond + scale (cond - uncond) on all channels (Ho and Salimans 2022, eq. 6 with scale = w + 1).

    Scale 1 is the conditional prediction and 0 the unconditional one; both cost one pass. Otherwise the two passes run
    as one batch of 2B rows, or one after the other with `batched=False`, which needs half the memory.
    """

    scale: float = 1.0
    batched: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.scale, int | float) or not math.isfinite(self.scale):
            raise ValueError(f"guidance.scale must be a finite number, got {self.scale!r}")

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        if self.scale == 1:
            return
        if labels is None:
            raise ValueError(f"guidance.scale={self.scale:g} needs class labels; an unconditional sample takes scale 1")
        if getattr(denoiser, "null_label", None) is None:
            raise ValueError(
                f"guidance.scale={self.scale:g} needs a prediction without class, which this model never learned: "
                "it was trained with class_dropout 0, so only guidance.scale=1 is allowed"
            )

    def with_scale(self, scale: float) -> CFG:
        return replace(self, scale=scale)

    def __call__(
        self, denoise: Denoise, x: Tensor, t: Tensor, labels: Tensor | None, context: StepContext
    ) -> Prediction:
        if self.scale == 1:
            return denoise(x, t, labels)
        if self.scale == 0:
            return denoise(x, t, None)
        assert labels is not None, "check() runs before the first call"
        if self.batched:
            assert denoise.null_label is not None
            null = torch.full_like(labels, denoise.null_label)  # [B]
            both = denoise(torch.cat([x, x]), t, torch.cat([labels, null]))
            cond, uncond = both.native.chunk(2)  # [B, *D] each
            pair = Prediction(cond, both.kind, x, both.coefficients)
        else:
            pair = denoise(x, t, labels)
            cond, uncond = pair.native, denoise(x, t, None).native  # [B, *D] each
        return pair.with_native(uncond + self.scale * (cond - uncond))
