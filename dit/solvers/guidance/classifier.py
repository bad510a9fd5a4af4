"""Guidance by the gradient of a separate classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit.diffusion.prediction import Prediction
from dit.solvers.guidance.rule import Denoise, Guidance, Pass, Stage, Wrapper
from dit.solvers.guidance.scale import check_number

Classifier = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, *D], time [B] as the network is told it) -> logits [B, K]; trained on noisy x_t."""


@dataclass(frozen=True)
class ClassifierGuidance(Wrapper):
    """Adds `scale` times the classifier's gradient to the score of `inner` (Dhariwal and Nichol 2021, algorithm 2).

    With g the gradient of ln p(label | x_t), eps falls by scale sigma g and x0 rises by scale sigma^2/alpha g. Where
    alpha is 0 no classifier knows anything and `inner` stays as it is. Its passes are not network rows.
    """

    classifier: Classifier
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.scale, "guidance.scale")
        if not callable(self.classifier):
            raise ValueError(f"guidance.classifier must be a callable (x, time) -> logits, got {self.classifier!r}")

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        if labels is None:
            raise ValueError("guidance.classifier needs class labels to lead to")
        super().check(denoiser, labels)

    def with_scale(self, scale: float) -> Guidance:
        return replace(self, scale=scale)

    def combine(self, predictions: Mapping[Pass, Prediction], stage: Stage) -> Prediction:
        guided, c = self.inner.combine(predictions, stage), stage.coefficients
        if self.scale == 0 or float(c.alpha) == 0:
            return guided
        assert stage.labels is not None, "check() runs before the first call"
        time = (
            stage.step.path.network_time(stage.t).float().to(stage.x.device, non_blocking=True).expand(len(stage.x))
        )  # [B]
        with torch.enable_grad():
            x = stage.x.detach().requires_grad_()
            log_p = self.classifier(x, time).log_softmax(1).gather(1, stage.labels[:, None])  # [B, 1]
            (gradient,) = torch.autograd.grad(log_p.sum(), x)  # [B, *D]
        push = self.scale * c.sigma * gradient
        return guided.with_native(guided.native + guided.native_of(c.sigma / c.alpha * push, -push))
