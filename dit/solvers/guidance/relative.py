"""The weights of the notebook that proposed true noise removal: several predictions around their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from dit.solvers.guidance.rule import UNCOND, Denoise, Linear, Pass, Stage, check_label
from dit.solvers.guidance.scale import check_number


@dataclass(frozen=True)
class Relative(Linear):
    """sum_k (1/N + scale_k - mean(scales)) prediction_k: the barycenter, moved along the predictions' differences.

    Two predictions with scales (s, 0) are CFG at scale (1 + s) / 2. Here to reproduce that notebook, also inside the
    compatibility modes of `TNR`, which read `scales`.

    labels: of the predictions: "own" is the image's, None is no class.
    """

    scales: Sequence[float] = (1.0, 0.0)
    labels: Sequence[int | Literal["own"] | None] = ("own", None)

    def __post_init__(self) -> None:
        if not self.scales or len(self.scales) != len(self.labels) or len(set(self.labels)) != len(self.labels):
            raise ValueError(
                "guidance.scales and guidance.labels must be two lists of one length, each label once, "
                f"got {list(self.scales)} and {list(self.labels)}"
            )
        for scale in self.scales:
            check_number(scale, "guidance.scales")

    @property
    def asked(self) -> tuple[Pass, ...]:
        return tuple(UNCOND if label is None else Pass(label) for label in self.labels)

    def check(self, denoiser: Denoise, labels: Tensor | None) -> None:
        if None in self.labels and getattr(denoiser, "null_label", None) is None:
            raise ValueError("guidance.labels with a null needs a model trained with dropout.class above 0")
        for label in self.labels:
            if label is not None and label != "own":
                check_label("guidance.labels", label, denoiser)

    def with_scale(self, scale: float) -> Relative:
        """The first prediction at `scale`, the others at 0."""
        return replace(self, scales=(scale, *[0.0] * (len(self.scales) - 1)))

    def weights(self, stage: Stage) -> dict[Pass, float]:
        count, mean = len(self.scales), sum(self.scales) / len(self.scales)
        return {p: 1 / count + scale - mean for p, scale in zip(self.asked, self.scales, strict=True)}
