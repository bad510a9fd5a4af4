"""Data whose denoiser is known in closed form, so that solvers and losses can be held against the truth."""

from dataclasses import dataclass

import torch

from dit.diffusion import Coefficients, DiscreteVP, GaussianPath, LinearFlow, Prediction
from dit.diffusion.prediction import parts


class Trigonometric(GaussianPath):
    """alpha = cos, sigma = sin of pi t / 2: a path the package does not ship, as a user would add one."""

    def coefficients(self, t):
        angle, rate = torch.pi / 2 * t, torch.pi / 2
        return Coefficients(angle.cos(), angle.sin(), -rate * angle.sin(), rate * angle.cos())

    def t_from_log_snr(self, log_snr):
        return torch.atan(torch.exp(-log_snr / 2)) * 2 / torch.pi


PATHS = {
    "flow": LinearFlow(),
    "linear": DiscreteVP.linear(),
    "scaled_linear": DiscreteVP.scaled_linear(),
    "cosine": DiscreteVP.cosine(),
    "trigonometric": Trigonometric(),
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
