"""What a network sees in pictures: `Features`, the `Extractor` that computes them, and which pictures it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from dit.metrics.cache import read_tensors
from dit.tensors import save_tensors


@dataclass(frozen=True)
class Features:
    """Of N images: pooled [N, F]; spatial [N, S], a few maps laid flat, and logits [N, K], where there are such."""

    pooled: Tensor
    spatial: Tensor | None = None
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, index: slice | Tensor) -> Features:
        return Features(**{name: part[index] for name, part in self._parts().items()})

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """One after the other; all come from one extractor."""
        names = parts[0]._parts()
        return Features(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def to(self, device: torch.device | str) -> Features:
        return Features(**{name: part.to(device) for name, part in self._parts().items()})

    def save(self, file: Path) -> None:
        """As a .safetensors with digests. Raises ValueError if it cannot be written."""
        save_tensors(file, self._parts(), {})

    @staticmethod
    def load(file: Path) -> Features:
        """Raises ValueError if `file` is not as `save` wrote it."""
        try:
            return Features(**read_tensors(file)[0])
        except TypeError as error:
            raise ValueError(f"{file} holds no features") from error

    def _parts(self) -> dict[str, Tensor]:
        return {name: part for name, part in vars(self).items() if part is not None}


class Extractor(Protocol):
    """A network from uint8 images [B, C, H, W] to `Features`. `digest` names its weights; `spec` is what the protocol
    says of it; `min_size` is the smallest height and width it takes."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def min_size(self) -> int: ...

    @property
    def spec(self) -> dict[str, Any]: ...

    def to(self, device: torch.device | str) -> Self: ...

    def __call__(self, images: Tensor) -> Features: ...


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Features:
    """Features, on the CPU, of uint8 batches [B, C, H, W] of one size.

    Raises ValueError for pictures that the extractor cannot take, or of which it makes NaN.
    """
    parts: list[Features] = []
    shape, count = None, 0
    for images in batches:
        shape = images.shape[1:] if shape is None else shape
        _check_form(extractor, images, shape, count)
        part = extractor(images).to("cpu")
        if not part.pooled.isfinite().all():
            first = int((~part.pooled.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"the {extractor.name} features of image {count + first} are not finite")
        parts.append(part)
        count += len(images)
    if not parts:
        raise ValueError("there are no images: a score needs at least 2")
    return Features.cat(parts)


def _check_form(extractor: Extractor, images: Tensor, shape: Sequence[int], begin: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        kind = str(images.dtype).removeprefix("torch.")
        raise ValueError(f"images must be uint8 [N, C, H, W], got {kind} {list(images.shape)}")
    if images.shape[1:] != shape:
        raise ValueError(
            f"images must all be {list(shape)}, but from image {begin} on they are {list(images.shape[1:])}"
        )
    if min(images.shape[2:]) < extractor.min_size:
        raise ValueError(
            f"{extractor.name} needs images of at least {extractor.min_size}x{extractor.min_size} pixels, "
            f"got {images.shape[2]}x{images.shape[3]}"
        )


def check_pictures(images: Tensor, source: str, begin: int = 0) -> None:
    """Refuse constant pictures among uint8 [B, C, H, W] read from `source`, where the first has the number `begin`.

    A file that was written before it was filled, or after a NaN, holds such pictures and would get a score.
    """
    flat = images.flatten(2)
    constant = (flat == flat[..., :1]).all(2).all(1).nonzero().flatten().tolist()
    if constant:
        raise ValueError(
            f"image {begin + constant[0]} of {source} is constant ({len(constant)} such in {len(images)} images), "
            "which no score takes: take it out or write the images again"
        )


def as_rgb(images: Tensor, name: str) -> Tensor:
    """uint8 [B, 1 or 3, H, W] -> [B, 3, H, W]: networks of colour pictures see the grey channel three times."""
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{name} takes images of 3 channels, or of 1 that it repeats, got {images.shape[1]}")
    return images.expand(-1, 3, -1, -1)  # [B, 3, H, W]


def digest_of(network: nn.Module) -> str:
    """The weights' own name: 12 digits of the SHA-256 of all parameters and buffers."""
    content = hashlib.sha256()
    for tensor in network.state_dict().values():
        content.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return content.hexdigest()[:12]
