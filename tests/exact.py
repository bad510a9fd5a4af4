"""Data whose denoiser is known in closed form, so that solvers and losses can be held against the truth."""

import functools
import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from scipy.integrate import solve_ivp

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


@functools.cache
def mixture_modes(dtype):
    means = torch.tensor(
        [[-1.2, 0.9], [-0.5, 1.5], [1.3, 0.7], [1.0, -0.3], [-0.1, -1.4], [-1.0, -0.8]], dtype=torch.float64
    )
    stds = torch.tensor(
        [[0.25, 0.12], [0.15, 0.28], [0.12, 0.3], [0.3, 0.18], [0.28, 0.2], [0.14, 0.25]], dtype=torch.float64
    )
    means = means - means.mean(0)
    size = (means.square() + stds.square()).mean(0).sqrt()
    return (means / size).to(dtype), (stds / size).to(dtype)


@dataclass
class Mixture:
    """The optimal denoiser of a 2-D mixture of unequal Gaussians, three classes of two: nonlinear, so that no order is
    met by accident. Variance 1 along each axis, mean 0. Label 3, and none, is no class.
    """

    path: GaussianPath
    kind: str = "eps"
    null_label: int = 3

    def modes(self, dtype=torch.float64):
        """means [6, 2] and standard deviations [6, 2], two rows a class."""
        return mixture_modes(dtype)

    def __call__(self, x, t, labels=None):
        coefficients = self.path.coefficients(torch.as_tensor(t))
        c = coefficients.like(x)
        means, stds = self.modes(x.dtype)
        labels = torch.full((len(x),), self.null_label) if labels is None else labels
        mine = (labels[:, None] == torch.arange(6) // 2) | (labels[:, None] == self.null_label)  # [B, 6]
        variances = c.alpha**2 * stds**2 + c.sigma**2  # [6, 2]
        offsets = x[:, None] - c.alpha * means  # [B, 6, 2]
        logits = -(offsets.square() / (2 * variances) + variances.log() / 2).sum(-1)  # [B, 6]
        weights = logits.masked_fill(~mine, -torch.inf).softmax(1)[..., None]  # [B, 6, 1]
        eps = (weights * offsets * c.sigma / variances).sum(1)  # [B, 2]
        x0 = (weights * (means + c.alpha * stds**2 * offsets / variances)).sum(1)  # [B, 2]
        a, b = parts(self.kind, c)
        return Prediction(a * x0 + b * eps, self.kind, x, coefficients)

    def draw(self, count):
        means, stds = self.modes()
        chosen = torch.randint(len(means), (count,))
        return means[chosen] + stds[chosen] * torch.randn(count, 2, dtype=torch.float64)


def walk(solver, denoiser, x, grid, draw=None):
    """x at the end of a grid that need not start at noise or end at data."""
    state = solver.init(x, grid)
    for t, t_next in pairwise(grid):
        x, state = solver.step(lambda x, t, *_: denoiser(x, t), denoiser.path, x, t, t_next, state, draw)
    return x


def levels(path, u_first, u_last, steps):
    """t [steps + 1] at equal steps of log-SNR, from sigma/alpha = u_first to u_last."""
    ends = -2 * math.log(u_first), -2 * math.log(u_last)
    return path.t_from_log_snr(torch.linspace(*ends, steps + 1, dtype=torch.float64))


def slope(errors):
    """Order of convergence from the errors at steps that double each time."""
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


FIRST, LAST = 14.4, 0.05  # sigma/alpha between which orders are measured


@functools.cache
def mixture_truth(name):
    """Where the flow of the mixture begins and ends on a path: [64, 2] each, by scipy's Dormand and Prince of order 8,
    which shares nothing with our solvers, on d(x/alpha)/d ln u = u eps with u = sigma/alpha."""
    denoiser = Mixture(PATHS[name])

    def slope(log_u, z):
        t = denoiser.path.t_from_log_snr(torch.tensor(-2 * log_u, dtype=torch.float64))
        x = denoiser.path.coefficients(t).alpha * torch.from_numpy(z).reshape(64, 2)
        return (math.exp(log_u) * denoiser(x, t).eps).flatten().numpy()

    noise = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    first, last = (denoiser.path.coefficients(t) for t in levels(denoiser.path, FIRST, LAST, 1))
    ends = math.log(FIRST), math.log(LAST)
    end = solve_ivp(slope, ends, (FIRST * noise).flatten().numpy(), "DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
    return first.sigma * noise, last.alpha * torch.from_numpy(end).reshape(64, 2)
