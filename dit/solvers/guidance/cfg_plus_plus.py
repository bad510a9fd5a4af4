"""CFG++: guide the denoised picture, renoise with the unconditional prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from dit.solvers.guidance.rule import COND, UNCOND, Denoise, Linear, Pass, Stage, check_classes
from dit.solvers.guidance.scale import check_number


@dataclass(frozen=True)
class CFGPlusPlus(Linear):
    """CFG++ (Chung et al. 2025, algorithm 2), as the CFG it equals.

    In a step that multiplies sigma/alpha by r, going to the picture uncond + lam (cond - uncond) and renoising it with
    the unconditional eps is an Euler step of CFG at the scale lam / (1 - r). That scale, fixed for the step, is used
    at all stages, which makes the rule work in every solver; the paper's renoising itself it is for Euler alone.

    mode: "per_step" is the paper's: the scale grows with the number of steps, so that lam is no strength by itself and
    there is no limit of many steps; a report must name steps and grid. "consistent" lets lam shrink with the step
    instead, lam_i = lam (1 - r_i), and is CFG at scale lam.
    """

    lam: float = 0.6
    mode: Literal["per_step", "consistent"] = "per_step"

    def __post_init__(self) -> None:
        check_number(self.lam, "guidance.lam")
        if self.mode not in ("per_step", "consistent"):
            raise ValueError(f"guidance.mode must be per_step or consistent, got {self.mode!r}")

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        check_classes(f"guidance.lam={self.lam:g}", denoiser, labels)

    def with_scale(self, scale: float) -> CFGPlusPlus:
        return replace(self, lam=scale)

    def weights(self, stage: Stage) -> dict[Pass, float]:
        scale = self.lam
        if self.mode == "per_step":
            here, there = (stage.step.path.coefficients(t) for t in (stage.step.t, stage.step.t_next))
            scale /= 1 - there.noise_ratio(here)
        return {COND: scale, UNCOND: 1 - scale}
