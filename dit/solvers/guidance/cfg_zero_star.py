"""CFG-Zero*: guidance of flows with a fitted unconditional velocity and a silent start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit.diffusion.path import per_image
from dit.diffusion.prediction import Prediction
from dit.solvers.guidance.rule import COND, UNCOND, Denoise, Guidance, Pass, Stage, check_classes
from dit.solvers.guidance.scale import Scale, check_scale, scale_at, shown


@dataclass(frozen=True)
class CFGZeroStar(Guidance):
    """f uncond + scale (cond - f uncond) on velocities, f = <cond, uncond> / |uncond|^2 per image; no velocity at all
    in the first `zero_steps` steps, which cost nothing, but for the last step (Fan et al. 2025).

    The velocity is that of the linear flow, eps - x0, at the same sigma/alpha; on `LinearFlow` it is the path's own.
    """

    scale: Scale = 1.5
    zero_steps: int = 1

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if self.zero_steps < 0:
            raise ValueError(f"guidance.zero_steps must be at least 0, got {self.zero_steps}")

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        check_classes(f"guidance.scale={shown(self.scale)}", denoiser, labels)

    def with_scale(self, scale: float) -> CFGZeroStar:
        return replace(self, scale=scale)

    def _silent(self, stage: Stage) -> bool:
        # Never the step to clean data: its result would be the noise.
        step = stage.step
        return step.index < self.zero_steps and float(step.path.coefficients(step.t_next).sigma) > 0

    def passes(self, stage: Stage) -> tuple[Pass, ...]:
        return () if self._silent(stage) else (COND, UNCOND)

    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        coefficients = stage.step.path.coefficients(stage.t)
        c, x, velocity, variance = stage.coefficients, stage.x, 0 * stage.x, None
        if not self._silent(stage):
            cond, uncond = (predictions[p].combine(-1, 1) for p in (COND, UNCOND))  # [B, *D]
            size = uncond.square().flatten(1).sum(1).clamp(min=torch.finfo(x.dtype).tiny)  # [B]
            fit = (cond * uncond).flatten(1).sum(1) / size  # [B]
            uncond = per_image(fit, x) * uncond
            velocity = uncond + scale_at(self.scale, stage.log_snr) * (cond - uncond)
            variance = predictions[COND].variance
        # x = alpha x0 + sigma eps and velocity = eps - x0, seen as v, which is finite wherever the path is.
        x0, eps = (x - c.sigma * velocity) / (c.alpha + c.sigma), (x + c.alpha * velocity) / (c.alpha + c.sigma)
        return Prediction(c.alpha * eps - c.sigma * x0, "v", x, coefficients, variance=variance)
