"""Denoising losses: what is compared, in which space, independent of what the network predicts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dit.diffusion.prediction import Kind, Prediction, check_kind


@dataclass(frozen=True)
class MSE:
    """Mean squared error of the prediction seen in `space`, whatever kind the network predicts natively.

    The error is taken on the native tensor and multiplied by `Prediction.gain(space)`, so that no digits are lost to
    the conversion. Some pairs have an unbounded gain (x0 seen as velocity: 1/t near clean data); `max_gain` limits its
    size (20 there is the 0.05 floor of Li and He 2025, "Back to Basics").
    """

    space: Kind
    max_gain: float | None = None

    def __post_init__(self) -> None:
        check_kind(self.space, "loss.space")
        if self.max_gain is not None and not self.max_gain > 0:
            raise ValueError(f"loss.max_gain must be positive or null, got {self.max_gain}")

    def __call__(self, prediction: Prediction, x0: Tensor, eps: Tensor) -> Tensor:
        """Loss of each sample [B] for the true x0 [B, *D] and eps [B, *D] behind prediction.x."""
        error = prediction.native - prediction.native_of(x0, eps)  # [B, *D]
        gain = prediction.gain(self.space)
        if self.max_gain is not None:
            gain = gain.clamp(-self.max_gain, self.max_gain)
        return (gain * error).square().flatten(1).mean(1)  # [B]
