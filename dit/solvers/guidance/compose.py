"""Several classes in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dit.solvers.guidance.rule import UNCOND, Denoise, Linear, Pass, Stage, check_label
from dit.solvers.guidance.scale import check_number


@dataclass(frozen=True)
class Compose(Linear):
    """uncond + sum_k scale_k (class_k - uncond) (Liu et al. 2022), the same classes for every image.

    The score of a product of classes at data only; at noise it is a heuristic. The labels of the images are not used.
    """

    classes: Sequence[int]
    scales: Sequence[float]

    def __post_init__(self) -> None:
        if not self.classes or len(self.classes) != len(self.scales) or len(set(self.classes)) != len(self.classes):
            raise ValueError(
                "guidance.classes and guidance.scales must be two lists of one length, each class once, "
                f"got {list(self.classes)} and {list(self.scales)}"
            )
        for scale in self.scales:
            check_number(scale, "guidance.scales")

    @property
    def uses_labels(self) -> bool:
        return False

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        if getattr(denoiser, "null_label", None) is None:
            raise ValueError(f"guidance.classes={list(self.classes)} needs a model trained with dropout.class above 0")
        for label in self.classes:
            check_label("guidance.classes", label, denoiser)

    def with_scale(self, scale: float) -> Compose:
        """The scales sum to `scale`, in their old proportions."""
        if sum(self.scales) == 0:
            raise ValueError(f"guidance.scales={list(self.scales)} sum to 0 and cannot be made to sum to {scale}")
        return replace(self, scales=tuple(scale * s / sum(self.scales) for s in self.scales))

    def weights(self, stage: Stage) -> dict[Pass, float]:
        return {Pass(c): s for c, s in zip(self.classes, self.scales, strict=True)} | {UNCOND: 1 - sum(self.scales)}
