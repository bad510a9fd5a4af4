"""The objective that learns how large the loss is at each noise level, and divides by it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dit.diffusion import Denoiser
from dit.objectives.loss import Loss
from dit.objectives.objective import Losses, Objective, as_objective


class LearnedUncertainty(nn.Module, Objective):
    """inner / e^l + l for a learned l(log-SNR), which becomes the logarithm of the mean loss at each noise level, so
    that all levels pull equally (Karras et al. 2024, EDM2, eq. 21; Kendall and Gal 2017).

    inner: a loss or an objective. l is linear in `channels` random Fourier features of log-SNR / -8, EDM's ln(sigma)/4;
    it starts at 0 and is trained with the network, whose checkpoints leave it behind. seed: of the features.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, inner: Loss | Objective, channels: int = 128, seed: int = 0):
        super().__init__()
        self.inner = as_objective(inner)
        self.learns_variance = self.inner.learns_variance
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels, generator=generator))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels, generator=generator))
        self.weights = nn.Parameter(torch.zeros(channels))

    def check(self, denoiser: Denoiser) -> None:
        self.inner.check(denoiser)

    def log_loss(self, log_snr: Tensor) -> Tensor:
        """l at log_snr [B] -> [B], in float32 under autocast as well: a step of bfloat16 is per cents of e^-l."""
        angle = -log_snr.float()[:, None] / 8 * self.frequencies + self.phases  # [B, channels]
        return (math.sqrt(2) * angle.cos() * self.weights).sum(1)  # [B]

    def forward(self, denoiser: Denoiser, x0: Tensor, eps: Tensor, t: Tensor, *told: Any) -> Losses:
        inner = self.inner(denoiser, x0, eps, t, *told)
        c = denoiser.path.coefficients(t)
        log_loss = self.log_loss((2 * (c.alpha / c.sigma).log()).expand(len(x0)).to(x0.device))  # [B]
        weighed = inner.per_sample * torch.exp(-log_loss) + log_loss  # [B]
        return Losses(weighed, {**inner.parts, "unweighed": inner.per_sample})
