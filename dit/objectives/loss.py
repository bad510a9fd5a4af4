"""Denoising losses: what is compared, in which space and with which weight, whatever the network predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from dit.diffusion.prediction import Kind, Prediction, check_kind, check_positive


class Loss(ABC):
    """loss(prediction, x0, eps) -> [B]."""

    @abstractmethod
    def __call__(self, prediction: Prediction, x0: Tensor, eps: Tensor) -> Tensor:
        """Loss of each sample [B] for the true x0 [B, *D] and eps [B, *D] behind prediction.x."""


@dataclass(frozen=True)
class MSE(Loss):
    """Mean squared error of the prediction seen in `space`, whatever kind the network predicts natively.

    The error is taken on the native tensor and multiplied by `Prediction.gain(space)`, so that no digits are lost to
    the conversion. Some pairs have an unbounded gain (x0 seen as velocity: 1/t near clean data); `max_gain` limits its
    size (20 there is the 0.05 floor of Li and He 2025, "Back to Basics"). The space "edm" is the weighting of EDM
    (Karras et al. 2022, table 1): unit weight on what a preconditioned network returns.
    """

    space: Kind
    max_gain: float | None = None

    def __post_init__(self) -> None:
        check_kind(self.space, "loss.space")
        if self.max_gain is not None:
            check_positive(self.max_gain, "loss.max_gain")

    def __call__(self, prediction: Prediction, x0: Tensor, eps: Tensor) -> Tensor:
        error = prediction.native - prediction.native_of(x0, eps)  # [B, *D]
        gain = prediction.gain(self.space)
        if self.max_gain is not None:
            gain = gain.clamp(-self.max_gain, self.max_gain)
        return (gain * error).square().flatten(1).mean(1)  # [B]


@dataclass(frozen=True)
class MinSNR(Loss):
    """Squared error of x0 times min(SNR, gamma), SNR = (alpha/sigma)^2 (Hang et al. 2023, eq. 11).

    soft: SNR gamma / (SNR + gamma) instead, without the corner (Crowson et al. 2024, HDiT, section 3.2).
    """

    gamma: float = 5.0
    soft: bool = False

    def __post_init__(self) -> None:
        check_positive(self.gamma, "loss.gamma")

    def __call__(self, prediction: Prediction, x0: Tensor, eps: Tensor) -> Tensor:
        c = prediction.coefficients
        inverse = (c.sigma / c.alpha).square()  # 1/SNR, finite at clean data
        weight = self.gamma / (1 + self.gamma * inverse) if self.soft else (1 / inverse).clamp(max=self.gamma)
        return weight.to(prediction.x) * MSE("x0")(prediction, x0, eps)  # [B]


@dataclass(frozen=True)
class CosineDirection(Loss):
    """`inner` plus `weight` times 1 - cos of predicted and true velocity over the channels, averaged over the pixels
    (Yao et al. 2025, LightningDiT, section 3.2)."""

    inner: Loss
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_inner(self.inner)
        check_positive(self.weight, "loss.weight")

    def __call__(self, prediction: Prediction, x0: Tensor, eps: Tensor) -> Tensor:
        if x0.shape[1] == 1:
            raise ValueError("loss=cosine compares directions over the channels; pictures of one channel have none")
        true = prediction.with_native(prediction.native_of(x0, eps)).velocity  # [B, C, *D]
        cosine = nn.functional.cosine_similarity(prediction.velocity, true, dim=1)  # [B, *D]
        return self.inner(prediction, x0, eps) + self.weight * (1 - cosine).flatten(1).mean(1)  # [B]


def check_inner(inner: Loss) -> None:
    """ValueError for an inner loss that is an objective, whose forward pass the outer one would leave out."""
    if not isinstance(inner, Loss):
        raise ValueError(f"loss.inner cannot be {type(inner).__name__}, an objective; put it outside of the other")
