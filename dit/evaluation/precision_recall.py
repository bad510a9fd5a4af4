"""Precision and recall of pictures: how many look real, and how much of the real is covered."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def precision_recall(
    features: nn.Module, images: Tensor, reference: Tensor, neighbours: int = 3, batch_size: int = 512
) -> tuple[float, float]:
    """Precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2) of uint8 images [N, C, H, W] to a reference
    [M, C, H, W].

    A set's manifold is a ball around each of its pictures that reaches to its `neighbours`-th nearest in the set.
    Precision is the fraction of images inside the manifold of the reference, recall the fraction of the reference
    inside that of the images. `features` maps uint8 [B, C, H, W] to [B, F]. Both numbers depend on both set sizes:
    compare only values with the same N, M, neighbours and features.
    """
    if not 0 < neighbours < min(len(images), len(reference)):
        raise ValueError(
            f"neighbours must be at least 1 and below both set sizes, got {neighbours} for {len(images)} images and "
            f"{len(reference)} of the reference"
        )
    fake, real = (
        torch.cat([features(part).double() for part in pictures.split(batch_size)]) for pictures in (images, reference)
    )  # [N, F], [M, F]
    return (
        _covered(fake, real, neighbours, batch_size),
        _covered(real, fake, neighbours, batch_size),
    )


def _covered(points: Tensor, manifold: Tensor, neighbours: int, batch_size: int) -> float:
    """Fraction of points [N, F] inside the manifold [M, F]."""
    # The nearest of all is the picture itself.
    radii = torch.cat(
        [_distances(part, manifold).kthvalue(neighbours + 1, dim=1).values for part in manifold.split(batch_size)]
    )  # [M]
    inside = [(_distances(part, manifold) <= radii).any(1) for part in points.split(batch_size)]
    return float(torch.cat(inside).double().mean())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # By differences: through a product equal pictures would get a distance that is not 0.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
