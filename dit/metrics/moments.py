"""Mean and covariance of a stream of features in float64, which merge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """mean [F] and covariance [F, F], float64."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class Moments:
    """count N, mean [F] and scatter [F, F], the sum of outer products about the mean, float64.

    The sum of two is that of both sets together (Chan, Golub and LeVeque 1979), so batches of any size and any number
    of processes give the same to rounding.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(features: Tensor, batch_size: int = 8192) -> Moments:
        """Of features [N, F], N at least 1."""
        parts = [_of_batch(part) for part in features.split(batch_size)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), scatter)

    @property
    def gaussian(self) -> Gaussian:
        """With the unbiased covariance. Raises ValueError for fewer than 2 images."""
        if self.count < 2:
            raise ValueError(f"a Frechet distance needs at least 2 images, got {self.count}")
        return Gaussian(self.mean, self.scatter / (self.count - 1))


def _of_batch(features: Tensor) -> Moments:
    x = features.double()
    mean = x.mean(0)
    centred = x - mean
    return Moments(len(x), mean, centred.T @ centred)
