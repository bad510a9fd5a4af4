"""Guiding a model away from a worse version of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from dit.solvers.guidance.rule import COND, Denoise, Linear, Pass, Stage
from dit.solvers.guidance.scale import Scale, check_scale, scale_at

WEAK = Pass(network="weak")


@dataclass(frozen=True)
class Autoguidance(Linear):
    """weak + scale (model - weak), both with the image's own class (Karras et al. 2024).

    weak: a smaller or shorter-trained denoiser of the same path; its kind may differ. Needs no unconditional
    prediction. The rows of both networks are counted.
    """

    weak: Denoise
    scale: Scale = 2.0

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if not (callable(self.weak) and hasattr(self.weak, "path")):
            raise ValueError(f"guidance.weak must be a second denoiser, got {self.weak!r}")

    @property
    def networks(self) -> Mapping[str, Denoise]:
        return {WEAK.network: self.weak}

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        classes = [getattr(network, "null_label", None) for network in (denoiser, self.weak)]
        if None not in classes and classes[0] != classes[1]:
            raise ValueError(f"guidance.weak must have the model's {classes[0]} classes, it has {classes[1]}")
        ours, theirs = denoiser.path, self.weak.path
        if ours is not theirs and ours.spec != theirs.spec:
            raise ValueError(f"guidance.weak must share the model's path {ours.spec}, it has {theirs.spec}")

    def with_scale(self, scale: float) -> Autoguidance:
        return replace(self, scale=scale)

    def weights(self, stage: Stage) -> dict[Pass, float]:
        scale = scale_at(self.scale, stage.log_snr)
        return {COND: scale, WEAK: 1 - scale}
