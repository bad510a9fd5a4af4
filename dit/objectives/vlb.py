"""The objective of a learned variance: the variational bound beside the squared error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit.diffusion import Denoiser
from dit.diffusion.path import GaussianPath, per_image
from dit.diffusion.posterior import ReverseStep
from dit.diffusion.prediction import Prediction, check_positive
from dit.diffusion.table import DiscreteVP
from dit.objectives.loss import Loss, check_inner
from dit.objectives.objective import Comparison, Losses


@dataclass(frozen=True)
class HybridVLB(Comparison):
    """`inner` + weight x steps x one term of the variational bound, in bits a value (Nichol and Dhariwal 2021, eq. 16).

    The term is KL(q(x_s | x_t, x0) || p(x_s | x_t)) one entry of the table below t, and at the first entry the
    likelihood of x0 in bins of `bin_width` (2/255: bytes on [-1, 1]). The mean of p is held constant, so the bound
    trains the variance alone. The path must be a table, whose entries are the steps.
    """

    inner: Loss
    weight: float = 1e-3
    bin_width: float = 2 / 255

    learns_variance = True

    def __post_init__(self) -> None:
        check_inner(self.inner)
        check_positive(self.weight, "loss.weight")
        check_positive(self.bin_width, "loss.bin_width")

    def check(self, denoiser: Denoiser) -> None:
        if not isinstance(denoiser.path, DiscreteVP):
            raise ValueError(f"loss=hybrid_vlb needs a path with steps, DiscreteVP; got {type(denoiser.path).__name__}")

    def compare(self, prediction: Prediction, path: GaussianPath, x0: Tensor, eps: Tensor) -> Losses:
        assert isinstance(path, DiscreteVP)
        error = self.inner(prediction, x0, eps)  # [B]
        bound = path.num_steps * self.bound(prediction, path, x0)  # [B]
        return Losses(error + self.weight * bound, {"error": error, "bound": bound})

    def bound(self, prediction: Prediction, path: DiscreteVP, x0: Tensor) -> Tensor:
        """The term at prediction's t, in bits a value [B]."""
        assert prediction.variance is not None
        one, c = 1 / path.num_steps, prediction.coefficients
        t = path.t_from_log_snr(2 * (c.alpha.double() / c.sigma.double()).log()).expand(len(x0))  # [B]
        first = (t <= one).view(-1, *[1] * (x0.ndim - 1))
        chain, alpha = _step(path, t.clamp(min=one), x0)
        # The posterior of the first step has no variance: its logarithm is taken one entry later, as is customary.
        chain = replace(chain, small=_step(path, t.clamp(min=2 * one), x0)[0].small)
        log_variance = chain.learned(prediction.variance).log()  # [B, *D]
        x0_hat = prediction.x0.detach()  # [B, *D]
        off = chain.share * alpha * (x0 - x0_hat)  # [B, *D], between the means
        divergence = 0.5 * (
            log_variance - chain.small.log() - 1 + (chain.small + off.square()) * torch.exp(-log_variance)
        )  # [B, *D]
        surprise = -_log_bin(x0, x0_hat, torch.exp(log_variance / 2), self.bin_width)  # [B, *D]
        return torch.where(first, surprise, divergence).flatten(1).mean(1) / math.log(2)  # [B]


def _step(path: DiscreteVP, t: Tensor, x: Tensor) -> tuple[ReverseStep, Tensor]:
    """The step from t [B] one entry down, and alpha there, shaped to broadcast over x."""
    there = path.coefficients((t - 1 / path.num_steps).clamp(min=0))
    chain = ReverseStep.between(path.coefficients(t), there)
    share, small, large, alpha = (
        per_image(part.to(x), x) for part in (chain.share, chain.small, chain.large, there.alpha)
    )
    return ReverseStep(share, small, large), alpha


def _log_bin(x: Tensor, mean: Tensor, std: Tensor, width: float) -> Tensor:
    """Log of what N(mean, std^2) puts into the bin of `width` around x; the bins at -1 and 1 are open outwards."""
    scale = std * math.sqrt(2)
    upper = (1 + torch.erf((x + width / 2 - mean) / scale)) / 2
    lower = (1 + torch.erf((x - width / 2 - mean) / scale)) / 2
    upper = torch.where(x > 1 - width / 4, torch.ones_like(upper), upper)
    lower = torch.where(x < -1 + width / 4, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()
