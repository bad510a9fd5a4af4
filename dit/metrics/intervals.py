"""95 % intervals of scores: what the value would be with other images of the same sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
LEFT_OUT = 1 / 3  # of the images, where leaving some out shows the spread
AT_ONCE = 1 << 20  # draws in memory


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval: where the expectation of the score lies, over sets of as many images from the
    same sampler against the same reference. None where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None


def bootstrap(
    value: float,
    influence: Tensor,
    strata: Tensor | None = None,
    replicates: int = 999,
    seed: int = 0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """From influences [N] of mean 0: the images are drawn again with replacement, within their stratum [N] if given,
    and the score moves by the mean influence.

    Linear on purpose. A Frechet distance computed of images drawn again is larger than that of the images, since
    doubles narrow its covariance and move its mean; its percentiles are not around the value and seldom hold the truth.
    """
    generator = torch.Generator().manual_seed(seed)
    moves = _resampled_means(influence.cpu(), strata, replicates, generator)
    low, high = moves.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=moves.dtype)).tolist()
    return Estimate(value, max(value + low, bounds[0]), min(value + high, bounds[1]))


def _resampled_means(values: Tensor, strata: Tensor | None, replicates: int, generator: torch.Generator) -> Tensor:
    """Means [replicates] of values [N], drawn again within each stratum."""
    count = len(values)
    strata = torch.zeros(count, dtype=torch.long) if strata is None else strata.cpu()
    _, sizes = strata.unique(return_counts=True)
    parts = values[strata.argsort(stable=True)].split(sizes.tolist())
    # About its own mean a stratum of n spreads too little, by (n - 1) / n.
    ordered = torch.cat([p.mean() + (p - p.mean()) * math.sqrt(len(p) / max(len(p) - 1, 1)) for p in parts])  # [N]
    begins = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # [N]
    widths = sizes.repeat_interleave(sizes)  # [N]
    means = []
    for rows in torch.arange(replicates).split(max(1, AT_ONCE // count)):
        drawn = (torch.rand(len(rows), count, dtype=torch.float64, generator=generator) * widths).long()
        means.append(ordered[begins + drawn].mean(1))
    return torch.cat(means)


def proportion(hits: Tensor) -> Estimate:
    """Of yes or no for each image [N]: Wilson's interval, which has a width at 0 and 1, where a bootstrap has none."""
    count, p = len(hits), float(hits.double().mean())
    centre = (p + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(p * (1 - p) / count + _Z**2 / (4 * count**2))
    return Estimate(p, max(centre - half, 0.0), min(centre + half, 1.0))


def leave_out(score: Callable[[Tensor], float], count: int, replicates: int, seed: int = 0) -> Estimate:
    """Of a fraction that depends on neighbours among the images, for which a bootstrap's doubles are no neighbours:
    random thirds of the images are left out (the delete-d jackknife of Wu 1986), and the spread scaled to the whole.

    `score` takes a mask [count] of the images to be counted.
    """
    generator = torch.Generator().manual_seed(seed)
    removed = max(1, round(count * LEFT_OUT))
    found = []
    for _ in range(replicates):
        mask = torch.ones(count, dtype=torch.bool)
        mask[torch.randperm(count, generator=generator)[:removed]] = False
        found.append(score(mask))
    spread = torch.tensor(found, dtype=torch.float64).std() * math.sqrt((count - removed) / removed)
    value = score(torch.ones(count, dtype=torch.bool))
    half = _Z * float(spread)
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0))
