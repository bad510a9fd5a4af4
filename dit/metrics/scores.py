"""All scores of a set of images against a reference, each with its interval."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from dit.metrics.features import Features
from dit.metrics.frechet import frechet, frechet_influence
from dit.metrics.inception_score import inception_score
from dit.metrics.intervals import Estimate, bootstrap, leave_out, proportion
from dit.metrics.kid import kid_influence
from dit.metrics.manifold import DENSITY_NEIGHBOURS, Manifold, manifold
from dit.metrics.moments import Gaussian, Moments
from dit.metrics.reference import Reference

_log = logging.getLogger(__name__)
SCORES = (
    "frechet",
    "spatial_frechet",
    "kid",
    "inception_score",
    "precision",
    "recall",
    "density",
    "coverage",
    "accuracy",
)
_OF_MANIFOLD = {"precision", "recall", "density", "coverage"}


def score(
    features: Features,
    reference: Reference,
    labels: Tensor | None = None,
    judged: Tensor | None = None,
    names: Sequence[str] = SCORES,
    splits: int = 10,
    replicates: int = 999,
    seed: int = 0,
) -> dict[str, Estimate | None]:
    """The scores `names` of the features of N images; None for one that cannot be had of what is given.

    KID, precision, recall, density and coverage need a reference with features, the inception score needs logits,
    spatial_frechet spatial features on both sides. accuracy needs the labels [N] that the images were drawn for and
    `judged`, the logits [N, K] of a `Classifier` for them, whatever network the features are of. Labels that are
    balanced were dealt and not drawn: then the intervals draw the images again within their class.

    Raises ValueError for an unknown name, for fewer images than a score needs, and for features of two extractors.
    """
    unknown = [name for name in names if name not in SCORES]
    if unknown:
        raise ValueError(f"there is no score {unknown[0]!r}: {', '.join(SCORES)} are known")
    for what, part in (("labels", labels), ("judged logits", judged)):
        if part is not None and len(part) != len(features):
            raise ValueError(f"there must be as many {what} as images, got {len(part)} for {len(features)}")
    scores = _Scores(features, reference, labels, judged, splits, replicates, seed)
    around = scores.manifold() if _OF_MANIFOLD & set(names) else None
    result: dict[str, Estimate | None] = {}
    for name in names:
        result[name] = getattr(scores, name)(around) if name in _OF_MANIFOLD else getattr(scores, name)()
    return result


class _Scores:
    """One method a score."""

    def __init__(
        self,
        features: Features,
        reference: Reference,
        labels: Tensor | None,
        judged: Tensor | None,
        splits: int,
        replicates: int,
        seed: int,
    ):
        self.features, self.real, self.labels, self.judged = features, reference, labels, judged
        self.splits, self.replicates, self.seed = splits, replicates, seed
        self.strata = labels if labels is not None and _balanced(labels) else None

    def frechet(self) -> Estimate:
        return self._frechet(self.features.pooled, self.real.moments, "frechet")

    def spatial_frechet(self) -> Estimate | None:
        if self.features.spatial is None or self.real.spatial_moments is None:
            return None
        return self._frechet(self.features.spatial, self.real.spatial_moments, "spatial_frechet")

    def kid(self) -> Estimate | None:
        if self.real.pooled is None:
            return None
        return self._bootstrap(*kid_influence(self.features.pooled, self._real_features()))

    def inception_score(self) -> Estimate | None:
        if self.features.logits is None:
            return None
        return self._bootstrap(*inception_score(self.features.logits, self.splits), bounds=(1.0, float("inf")))

    def manifold(self) -> Manifold | None:
        return None if self.real.pooled is None else manifold(self.features.pooled, self._real_features())

    def precision(self, around: Manifold | None) -> Estimate | None:
        return None if around is None else proportion(around.inside)

    def density(self, around: Manifold | None) -> Estimate | None:
        if around is None:
            return None
        of_image = around.balls.double() / DENSITY_NEIGHBOURS
        return self._bootstrap(around.density, of_image - of_image.mean(), bounds=(0.0, float("inf")))

    def recall(self, around: Manifold | None) -> Estimate | None:
        return None if around is None else leave_out(around.recall, len(self.features), self._few(), self.seed)

    def coverage(self, around: Manifold | None) -> Estimate | None:
        return None if around is None else leave_out(around.coverage, len(self.features), self._few(), self.seed)

    def accuracy(self) -> Estimate | None:
        if self.labels is None or self.judged is None:
            return None
        return proportion(self.judged.argmax(1).cpu() == self.labels.cpu())

    def _frechet(self, features: Tensor, real: Gaussian, name: str) -> Estimate:
        if len(features) <= features.shape[1]:
            _warn(name, *features.shape)
        ours = Moments.of(features).gaussian
        on_device = Gaussian(real.mean.to(features.device), real.covariance.to(features.device))
        value = frechet(ours, on_device)
        return self._bootstrap(value, frechet_influence(features, ours, on_device), bounds=(0.0, float("inf")))

    def _bootstrap(
        self, value: float, influence: Tensor, bounds: tuple[float, float] = (float("-inf"), float("inf"))
    ) -> Estimate:
        return bootstrap(value, influence, self.strata, self.replicates, self.seed, bounds)

    def _real_features(self) -> Tensor:
        assert self.real.pooled is not None
        if self.real.pooled.shape[1] != self.features.pooled.shape[1]:
            raise ValueError(
                f"the reference has {self.real.pooled.shape[1]} features and the images have "
                f"{self.features.pooled.shape[1]}: both must come from one extractor"
            )
        return self.real.pooled.to(self.features.pooled.device)

    def _few(self) -> int:
        """A standard deviation needs fewer replicates than a quantile, and these cost more."""
        return max(2, self.replicates // 5)


@functools.cache
def _warn(name: str, images: int, features: int) -> None:
    """Once, however many rows there are."""
    _log.warning(
        f"{name} of {images:,} images in {features:,} features: their covariance is singular and the distance far too "
        "large; compare it only with that of as many images"
    )


def _balanced(labels: Tensor) -> bool:
    """Each class as often as the others, and twice at least."""
    counts = torch.unique(labels, return_counts=True)[1]
    return int(counts.min()) >= 2 and int(counts.max() - counts.min()) <= 1
