"""Precision, recall, density and coverage: balls around pictures that reach to their nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5  # as published: Kynkaanniemi et al. 2019, Naeem et al. 2020
CANDIDATES = 64  # neighbours remembered when images are left out


@dataclass(frozen=True)
class Manifold:
    """Of features [N, F] against a reference [M, F]. `inside` [N]: whether image i lies in a ball of the reference that
    reaches to the 3rd neighbour; `balls` [N]: in how many that reach to the 5th. `recall` and `coverage` take a mask
    [N] of the images to be counted and give the score. As published, the balls of precision and recall hold their rim,
    those of density and coverage do not."""

    inside: Tensor
    balls: Tensor
    recall: Callable[[Tensor], float]
    coverage: Callable[[Tensor], float]

    @property
    def precision(self) -> float:
        """Fraction of images inside the manifold of the reference (Kynkaanniemi et al. 2019, eq. 2)."""
        return float(self.inside.double().mean())

    @property
    def density(self) -> float:
        """Balls that an image lies in, over their number of neighbours (Naeem et al. 2020, eq. 3)."""
        return float(self.balls.double().mean()) / DENSITY_NEIGHBOURS


def manifold(features: Tensor, reference: Tensor, batch_size: int = 1024) -> Manifold:
    """All four scores. Distances are float64 and computed in blocks, each once a pair of sets.

    They depend on both set sizes: compare only values with the same N and M. Raises ValueError where a set has no more
    than 5 pictures.
    """
    for name, part in (("images", features), ("pictures of the reference", reference)):
        if len(part) <= DENSITY_NEIGHBOURS:
            raise ValueError(
                f"precision, recall, density and coverage need more than {DENSITY_NEIGHBOURS} {name}, got {len(part)}"
            )
    # About the mean, products lose fewer digits.
    centre = reference.double().mean(0)
    x, y = features.double() - centre, reference.double() - centre
    real, _ = _nearest(y, y, 1 + DENSITY_NEIGHBOURS, batch_size)  # the nearest of all is the picture itself
    own, neighbours = _nearest(x, x, 1 + min(CANDIDATES // 2, len(x) - 1), batch_size)
    nearest_at, nearest_images = [], []
    inside = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    balls = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    covering, covering_at = [], []
    reach = own[:, PRECISION_NEIGHBOURS]  # [N]
    for start in range(0, len(y), batch_size):
        part = slice(start, start + batch_size)
        squares = _squares(y[part], x)  # [B, N]
        inside |= (squares <= real[part, PRECISION_NEIGHBOURS, None]).any(0)
        balls += (squares < real[part, DENSITY_NEIGHBOURS, None]).sum(0)
        nearest = squares.topk(min(CANDIDATES, len(x)), dim=1, largest=False)
        nearest_at.append(nearest.values)
        nearest_images.append(nearest.indices)
        # Which balls of images are most likely to hold this picture, whoever of the images is left out.
        ratio = squares / reach.clamp(min=torch.finfo(squares.dtype).tiny)
        best = ratio.topk(min(CANDIDATES, len(x)), dim=1, largest=False).indices
        covering.append(best)
        covering_at.append(squares.gather(1, best))
    near, near_at = torch.cat(nearest_images), torch.cat(nearest_at)  # [M, C]
    ball, ball_at = torch.cat(covering), torch.cat(covering_at)  # [M, C]

    def recall(counted: Tensor) -> float:
        counted = counted.to(own.device)
        present = counted[neighbours[:, 1:]].cumsum(1)  # [N, D]
        last = (present < PRECISION_NEIGHBOURS).sum(1).clamp(max=present.shape[1] - 1)
        radius = own[:, 1:].gather(1, last[:, None]).flatten()  # [N]
        return float((counted[ball] & (ball_at <= radius[ball])).any(1).double().mean())

    def coverage(counted: Tensor) -> float:
        counted = counted.to(own.device)
        return float((counted[near] & (near_at < real[:, DENSITY_NEIGHBOURS, None])).any(1).double().mean())

    return Manifold(inside, balls, recall, coverage)


def _nearest(x: Tensor, y: Tensor, count: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Squared distances [N, count] from x to the nearest of y, rising, and which they are."""
    found = [_squares(part, y).topk(count, dim=1, largest=False) for part in x.split(batch_size)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances [N, M]; what is rounding is 0, so that equal pictures are."""
    lengths = x.square().sum(1)[:, None] + y.square().sum(1)
    squares = lengths - 2 * (x @ y.T)
    return squares.where(squares > lengths * 1e-13, 0)
