"""The real pictures that samples are held against: their moments and, if there are pictures, their features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dit.metrics.cache import kept, read_tensors
from dit.metrics.features import Extractor, Features, extract
from dit.metrics.moments import Gaussian, Moments
from dit.tensors import save_tensors


@dataclass(frozen=True)
class Reference:
    """pooled: features [M, F], or None where only moments are known. images: M, or None where nobody wrote it down.
    digest: 12 digits of a hash of the pictures and the extractor."""

    name: str
    digest: str
    moments: Gaussian
    spatial_moments: Gaussian | None = None
    pooled: Tensor | None = None
    images: int | None = None

    @staticmethod
    def of(features: Features, name: str, digest: str) -> Reference:
        """Raises ValueError for fewer than 2 pictures."""
        spatial = None if features.spatial is None else Moments.of(features.spatial).gaussian
        pooled = features.pooled
        return Reference(name, digest, Moments.of(pooled).gaussian, spatial, pooled, len(pooled))

    def save(self, file: Path) -> None:
        """As a .safetensors with the names of the ADM suite and digests. Raises ValueError if it cannot be written."""
        tensors = {"mu": self.moments.mean, "sigma": self.moments.covariance}
        if self.spatial_moments is not None:
            tensors |= {"mu_s": self.spatial_moments.mean, "sigma_s": self.spatial_moments.covariance}
        if self.pooled is not None:
            tensors["pooled"] = self.pooled
        facts = {"name": self.name, "of": self.digest, "images": str(self.images or "")}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(file, tensors, facts)

    @staticmethod
    def load(file: Path) -> Reference:
        """Raises ValueError if `file` is not as `save` wrote it."""
        tensors, facts = read_tensors(file)
        try:
            spatial = Gaussian(tensors["mu_s"], tensors["sigma_s"]) if "mu_s" in tensors else None
            images = int(facts["images"]) if facts["images"] else None
            moments = Gaussian(tensors["mu"], tensors["sigma"])
            return Reference(facts["name"], facts["of"], moments, spatial, tensors.get("pooled"), images)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{file} holds no reference") from error


def reference_of(
    batches: Callable[[], Iterable[Tensor]], name: str, pictures: str, extractor: Extractor, cache: Path
) -> Reference:
    """The reference of uint8 batches [B, C, H, W], read from `cache` if it was computed before and is intact.

    pictures: a digest of them; with that of the extractor it names the file.
    """
    digest = hashlib.sha256(f"{pictures} {extractor.name} {extractor.digest}".encode()).hexdigest()[:12]
    file = cache / f"reference-{digest}.safetensors"
    return kept(file, Reference.load, lambda: Reference.of(extract(extractor, batches()), name, digest), Reference.save)
