"""Frechet distance between two sets of pictures, in the features of a given network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance


@torch.no_grad()
def frechet_distance(features: nn.Module, images: Tensor, reference: Tensor, batch_size: int = 512) -> float:
    """Frechet distance (Heusel et al. 2017, eq. 6) of uint8 images [N, C, H, W] to a reference [M, C, H, W].

    `features` maps uint8 [B, C, H, W] to [B, num_features]; sums are kept in float64. The number depends on both set
    sizes: compare only values with the same N, M and features.
    """
    metric = FrechetInceptionDistance(feature=features, normalize=False)
    for pictures, real in ((reference, True), (images, False)):
        for part in pictures.split(batch_size):
            metric.update(part, real=real)
    return float(metric.compute())
