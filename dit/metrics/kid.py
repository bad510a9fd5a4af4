"""Kernel distance: the unbiased squared maximum mean discrepancy of a cubic kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def kid(features: Tensor, reference: Tensor, subsets: Sequence[tuple[Tensor, Tensor]] | None = None) -> float:
    """KID (Binkowski et al. 2018, section 4) of features [N, F] to a reference [M, F], with the kernel (x.y / F + 1)^3.

    Of all pairs of pictures, which has the expectation of the mean over `subsets` (pairs of index tensors, as published
    numbers have it) and the smaller spread. Unbiased, so near 0 it may be negative. Float64, streamed. Raises
    ValueError for fewer than 2 images.
    """
    if subsets is not None:
        return sum(kid(features[ours], reference[real]) for ours, real in subsets) / len(subsets)
    return float(_kid(features, reference)[0])


def kid_influence(features: Tensor, reference: Tensor) -> tuple[float, Tensor]:
    """KID, and what image i adds to it to first order in its weight: [N], of mean 0 (Hoeffding's projection)."""
    value, within, across = _kid(features, reference)
    influence = 2 * (within - across)  # [N]
    return float(value), influence - influence.mean()


def _kid(features: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KID; mean kernel of each image to the other images [N], and to the reference [N]."""
    for name, part in (("images", features), ("pictures of the reference", reference)):
        if len(part) < 2:
            raise ValueError(f"KID needs at least 2 {name}, got {len(part)}")
    x, y = features.double(), reference.double()
    within, across = _mean_kernel(x, x, own=True), _mean_kernel(x, y)
    return within.mean() + _mean_kernel(y, y, own=True).mean() - 2 * across.mean(), within, across


def _mean_kernel(x: Tensor, y: Tensor, own: bool = False, batch_size: int = 1024) -> Tensor:
    """Mean over y [M, F] of the kernel with each x [N, F]; own: x is y, and a picture is not paired with itself."""
    sums = torch.cat([_kernel(part @ y.T, x.shape[1]).sum(1) for part in x.split(batch_size)])  # [N]
    if not own:
        return sums / len(y)
    return (sums - _kernel(x.square().sum(1), x.shape[1])) / (len(y) - 1)


def _kernel(products: Tensor, width: int) -> Tensor:
    return (products / width + 1) ** 3
