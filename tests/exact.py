"""Data whose denoiser is known in closed form, so that solvers and losses can be held against the truth."""

from dataclasses import dataclass

import torch

from dit.diffusion import (
    DiscreteVP,
    GaussianPath,
    LinearFlow,
    Prediction,
    Shifted,
    Trigonometric,
    VarianceExploding,
    VPContinuous,
)
from dit.diffusion.prediction import parts

PATHS = {
    "flow": LinearFlow(),
    "linear": DiscreteVP.linear(),
    "scaled_linear": DiscreteVP.scaled_linear(),
    "cosine": DiscreteVP.cosine(),
    "trigonometric": Trigonometric(),
    "vp": VPContinuous(),
    "vp_scaled": VPContinuous(0.85, 12.0, power=2),
    "sigmoid": DiscreteVP.sigmoid(),
    "zero_terminal_snr": DiscreteVP.scaled_linear(zero_terminal_snr=True),
    "edm": VarianceExploding(),
    "shifted": Shifted(LinearFlow(), 3.0),
}


@dataclass
class Gaussian:
    """The optimal denoiser of x0 ~ N(mean, std^2), one mean per class if `means` is given: E[x0 | x_t], in any kind.

    Counts its calls and rows by itself, so that the package's own counting can be checked.
    """

    path: GaussianPath
    kind: str = "velocity"
    mean: float = 0.7
    std: float = 0.5
    means: tuple[float, ...] | None = None
    null_label: int | None = None
    calls: int = 0
    rows: int = 0

    def __call__(self, x, t, labels=None):
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        c = self.path.coefficients(torch.as_tensor(t)).like(x)
        mean = torch.as_tensor(self.mean, dtype=x.dtype)
        if self.means is not None:
            labels = torch.full((len(x),), self.null_label) if labels is None else labels
            mean = torch.tensor(self.means, dtype=x.dtype)[labels].reshape(-1, *[1] * (x.ndim - 1))
        variance = c.alpha**2 * self.std**2 + c.sigma**2
        residual = (x - c.alpha * mean) / variance
        x0, eps = mean + c.alpha * self.std**2 * residual, c.sigma * residual
        a, b = parts(self.kind, c)
        return Prediction(a * x0 + b * eps, self.kind, x, self.path.coefficients(torch.as_tensor(t)))

    def solution(self, x, t, t_next):
        """Where the probability-flow ODE takes x from t to t_next."""
        here, there = self.path.coefficients(t), self.path.coefficients(t_next)
        spread = [(c.alpha**2 * self.std**2 + c.sigma**2).sqrt() for c in (here, there)]
        return there.alpha * self.mean + (x - here.alpha * self.mean) * spread[1] / spread[0]


@dataclass
class Mixture:
    """The optimal denoiser of a 2-D mixture of equal Gaussians: nonlinear, so that no order is met by accident."""

    path: GaussianPath
    kind: str = "eps"
    std: float = 0.25
    means: tuple[tuple[float, float], ...] = ((-1.0, 0.5), (1.0, 0.0), (0.2, -1.2))

    def __call__(self, x, t, labels=None):
        coefficients = self.path.coefficients(torch.as_tensor(t))
        c = coefficients.like(x)
        means = torch.tensor(self.means, dtype=x.dtype)
        variance = c.alpha**2 * self.std**2 + c.sigma**2
        offsets = x[:, None] - c.alpha * means  # [B, 3, 2]
        weights = (-offsets.square().sum(-1) / (2 * variance)).softmax(1)[..., None]  # [B, 3, 1]
        eps = (weights * offsets).sum(1) * c.sigma / variance  # [B, 2]
        x0 = (weights * (means + c.alpha * self.std**2 * offsets / variance)).sum(1)  # [B, 2]
        a, b = parts(self.kind, c)
        return Prediction(a * x0 + b * eps, self.kind, x, coefficients)

    def draw(self, count):
        means = torch.tensor(self.means, dtype=torch.float64)
        return means[torch.randint(len(means), (count,))] + self.std * torch.randn(count, 2, dtype=torch.float64)
