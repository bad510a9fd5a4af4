"""Mixtures of Gaussians in the plane: their exact denoiser, and the distance of samples to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dit.diffusion import GaussianPath, Prediction

DIRECTIONS = 24


@dataclass(frozen=True)
class Toy:
    """K classes of M equally likely modes. means, stds: [K, M, 2], float64."""

    means: Tensor
    stds: Tensor

    @property
    def classes(self) -> int:
        return len(self.means)

    def log_densities(self, x: Tensor) -> Tensor:
        """ln p(x | class) + constant, [N, K], of x [N, 2]."""
        offsets = (x[:, None, None] - self.means) / self.stds  # [N, K, M, 2]
        return (-offsets.square() / 2 - self.stds.log()).sum(-1).logsumexp(-1)

    def quantiles(self, label: int, directions: Tensor, count: int) -> Tensor:
        """[R, count]: the projection of a class on each direction [R, 2] at the levels (i + 1/2) / count."""
        centres = directions @ self.means[label].T  # [R, M]
        widths = (directions.square() @ self.stds[label].square().T).sqrt()
        levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        low = (centres - 9 * widths).min(1, keepdim=True).values.expand(-1, count)
        high = (centres + 9 * widths).max(1, keepdim=True).values.expand(-1, count)
        for _ in range(50):
            middle = (low + high) / 2
            below = torch.special.ndtr((middle[..., None] - centres[:, None]) / widths[:, None]).mean(-1) < levels
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def toy_a() -> Toy:
    """Three classes of two anisotropic modes; mean 0 and variance 1 along each axis over all classes."""
    means = torch.tensor(
        [[[-1.3, 0.8], [-0.6, 1.4]], [[1.2, 0.8], [1.1, -0.2]], [[0.0, -1.5], [-1.0, -0.9]]], dtype=torch.float64
    )
    stds = torch.tensor(
        [[[0.25, 0.13], [0.15, 0.28]], [[0.13, 0.30], [0.30, 0.18]], [[0.28, 0.20], [0.14, 0.25]]], dtype=torch.float64
    )
    means = means - means.mean((0, 1))
    size = (means.square() + stds.square()).mean((0, 1)).sqrt()
    return Toy(means / size, stds / size)


def toy_b() -> Toy:
    """A coarse axis and a fine one: brightness -20, 0 or 20 by class, std 6; detail +-0.7 in each class, std 0.3."""
    means = torch.tensor([[[b, -0.7], [b, 0.7]] for b in (-20.0, 0.0, 20.0)], dtype=torch.float64)
    return Toy(means, torch.tensor([6.0, 0.3], dtype=torch.float64).expand(3, 2, 2).clone())


@dataclass(frozen=True)
class ToyDenoiser:
    """E[x0 | x_t, class] in closed form. leak: how much of the prediction without class a prediction with one holds."""

    toy: Toy
    path: GaussianPath
    leak: float = 0.0

    @property
    def null_label(self) -> int:
        return self.toy.classes

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Prediction:
        coefficients = self.path.coefficients(t)
        c = coefficients.like(x)
        means, stds = self.toy.means.flatten(0, 1), self.toy.stds.flatten(0, 1)  # [K M, 2]
        owner = torch.arange(self.toy.classes).repeat_interleave(self.toy.means.shape[1])
        variances = c.alpha**2 * stds**2 + c.sigma**2
        gains, shifts = c.alpha * stds**2 / variances, c.sigma**2 / variances * means  # E[x0 | x_t, mode]: linear in x
        squares = (c.alpha**2 * means.square() / variances + variances.log()).sum(1)
        logits = x @ (c.alpha * means / variances).T - x.square() @ (0.5 / variances).T - squares / 2  # [B, K M]
        if labels is None:
            labels = torch.full((len(x),), self.null_label)
        mine = (labels[:, None] == owner) | (labels[:, None] == self.null_label)
        weights = logits.masked_fill(~mine, -torch.inf).softmax(1)
        if self.leak:
            weights = (1 - self.leak) * weights + self.leak * logits.softmax(1)
        x0 = weights @ shifts + x * (weights @ gains)  # [B, 2]
        return Prediction(x0, "x0", x, coefficients)


def sobol_normals(count: int) -> Tensor:
    """[count, 2] quasi-random draws of a standard normal, float64."""
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(count, dtype=torch.float64)
    return torch.special.ndtri(points.clamp(2.0**-31, 1 - 2.0**-31))


@dataclass(frozen=True)
class Closeness:
    """Samples against the truth, averaged over the classes.

    sw2: sliced 2-Wasserstein distance. mean_error: distance of the class means. variance: trace of the covariance over
    the true one. margin: mean of ln p(x | own class) - ln p(x | the likeliest other). contrast and coarse_std: of the
    first axis, the class means regressed on the true ones and the standard deviation over the true one.
    """

    sw2: float
    mean_error: float
    variance: float
    margin: float
    contrast: float
    coarse_std: float


class Judge:
    """Holds the exact quantiles of a toy, so that many sets of `count` samples a class can be scored."""

    def __init__(self, toy: Toy, count: int):
        angles = torch.arange(DIRECTIONS, dtype=torch.float64) * (math.pi / DIRECTIONS)
        self.toy, self.directions = toy, torch.stack([angles.cos(), angles.sin()], 1)  # [R, 2]
        self.quantiles = [toy.quantiles(label, self.directions, count) for label in range(toy.classes)]

    def __call__(self, x: Tensor) -> Closeness:
        """x: [K, count, 2], class by class."""
        true_mean = self.toy.means.mean(1)  # [K, 2]
        true_variance = (self.toy.stds.square() + self.toy.means.square()).mean(1) - true_mean.square()
        mean, variance = x.mean(1), x.var(1, correction=0)  # [K, 2]
        distances = [
            ((self.directions @ own.T).sort(1).values - exact).square().mean().sqrt()
            for own, exact in zip(x, self.quantiles, strict=True)
        ]
        margins = []
        for label, own in enumerate(x):
            densities = self.toy.log_densities(own)
            others = densities.index_fill(1, torch.tensor([label]), -torch.inf).max(1).values
            margins.append((densities[:, label] - others).mean())
        return Closeness(
            sw2=float(torch.stack(distances).mean()),
            mean_error=float((mean - true_mean).norm(dim=1).mean()),
            variance=float((variance.sum(1) / true_variance.sum(1)).mean()),
            margin=float(torch.stack(margins).mean()),
            contrast=float((mean[:, 0] * true_mean[:, 0]).sum() / true_mean[:, 0].square().sum()),
            coarse_std=float((variance[:, 0] / true_variance[:, 0]).sqrt().mean()),
        )
