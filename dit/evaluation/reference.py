"""The real pictures that samples are held against: their moments and, if there are pictures, their features."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dit.evaluation.features import Extractor, Features, extract
from dit.evaluation.moments import Gaussian, Moments


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
        """As a .safetensors with the names of the ADM suite, written whole or not at all."""
        tensors = {"mu": self.moments.mean, "sigma": self.moments.covariance}
        if self.spatial_moments is not None:
            tensors |= {"mu_s": self.spatial_moments.mean, "sigma_s": self.spatial_moments.covariance}
        if self.pooled is not None:
            tensors["pooled"] = self.pooled
        facts = {"name": self.name, "digest": self.digest, "images": str(self.images or "")}
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, facts)
        temporary.replace(file)

    @staticmethod
    def load(file: Path) -> Reference:
        with safe_open(file, "pt") as opened:
            facts = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        spatial = Gaussian(tensors["mu_s"], tensors["sigma_s"]) if "mu_s" in tensors else None
        images = int(facts["images"]) if facts["images"] else None
        moments = Gaussian(tensors["mu"], tensors["sigma"])
        return Reference(facts["name"], facts["digest"], moments, spatial, tensors.get("pooled"), images)


def reference_of(
    batches: Callable[[], Iterable[Tensor]], name: str, pictures: str, extractor: Extractor, cache: Path
) -> Reference:
    """The reference of uint8 batches [B, C, H, W], read from `cache` where it was computed before.

    pictures: a digest of them; with that of the extractor it names the file.
    """
    digest = hashlib.sha256(f"{pictures} {extractor.name} {extractor.digest}".encode()).hexdigest()[:12]
    file = cache / f"reference-{digest}.safetensors"
    if not file.is_file():
        Reference.of(extract(extractor, batches()), name, digest).save(file)
    return Reference.load(file)
