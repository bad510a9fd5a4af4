"""Frechet distance between Gaussians with the moments of two sets of pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from dit.metrics.moments import Gaussian


def frechet(images: Gaussian, reference: Gaussian) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, eq. 6), float64.

    The last trace is the sum of the singular values of C^(1/2) C'^(1/2), so singular covariances are exact too: a set
    against itself gives 0 to rounding. Raises ValueError for features of different widths.
    """
    if len(images.mean) != len(reference.mean):
        raise ValueError(
            f"the reference has {len(reference.mean)} features and the images have {len(images.mean)}: "
            "both must come from one extractor"
        )
    (ours, s), (real, t) = _axes(images.covariance), _axes(reference.covariance)
    shared = torch.linalg.svdvals((ours * s).T @ (real * t)).sum()
    traces = images.covariance.trace() + reference.covariance.trace()
    return max(float((images.mean - reference.mean).square().sum() + traces - 2 * shared), 0.0)


def frechet_influence(features: Tensor, images: Gaussian, reference: Gaussian, batch_size: int = 8192) -> Tensor:
    """What image i of features [N, F] adds to the distance, to first order in its weight: [N], of mean 0.

    The derivative is 2 (m - m') in m and I - T in C, with T the optimal transport from C to C'. With y = x - m and z =
    C^(-1/2) y, y T y = z (C^(1/2) C' C^(1/2))^(1/2) z needs no inverse that a singular C does not have.
    """
    vectors, scales = _axes(images.covariance)
    root = vectors * scales  # [F, R]
    whiten = vectors / scales  # [F, R]
    shared, axes = torch.linalg.eigh(root.T @ reference.covariance @ root)
    stretch = whiten @ (axes * shared.clamp(min=0).pow(0.25))  # [F, R]
    parts = []
    for part in features.split(batch_size):
        centred = part.double() - images.mean  # [B, F]
        linear = 2 * centred @ (images.mean - reference.mean)  # [B]
        parts.append(linear + centred.square().sum(1) - (centred @ stretch).square().sum(1))
    influence = torch.cat(parts)  # [N]
    return influence - influence.mean()


def _axes(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The axes [F, R] along which a covariance of rank R is not 0, and the deviations [R] along them."""
    values, vectors = torch.linalg.eigh(covariance)
    # The root of rounding is not small: 1e-8 where it should be 0.
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept], values[kept].sqrt()
