"""The forward process: x_t = alpha(t) x0 + sigma(t) eps. t = 0 is data, t = 1 is noise, and t rises with noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma and their time derivatives at some t, each of t's shape."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    def like(self, x: Tensor) -> Coefficients:
        """The same numbers in x's dtype and device, shaped to broadcast over x [B, *D]."""

        def fit(c: Tensor) -> Tensor:
            # 0-dim numbers stay where they are: PyTorch reads them from the CPU without a copy to the device.
            c = c.to(x.dtype) if c.ndim == 0 else c.to(x.dtype).to(x.device)
            return c.reshape(c.shape + (1,) * (x.ndim - c.ndim)) if c.ndim else c

        return Coefficients(fit(self.alpha), fit(self.sigma), fit(self.d_alpha), fit(self.d_sigma))

    def noise_ratio(self, start: Coefficients) -> float:
        """sigma/alpha here, at one t, over that at `start`: 0 from pure noise, and at clean data."""
        return float(self.sigma * start.alpha) / float(self.alpha * start.sigma)


class GaussianPath(ABC):
    """A Gaussian probability path (Kingma et al. 2021, section 2; Lipman et al. 2023, section 4).

    A leaf says what alpha and sigma are and how to invert the log-SNR; everything else follows from that. `time_scale`
    stretches t for the network, whose sinusoidal embedding was made for integer steps.
    """

    time_scale: float = 1000.0

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """alpha, sigma and d/dt of both at t in [0, 1], any shape, in t's dtype."""

    @abstractmethod
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """The t at which 2 ln(alpha/sigma) equals `log_snr`; clamped to [0, 1]."""

    def network_time(self, t: Tensor) -> Tensor:
        """The number the network is told at t."""
        return self.time_scale * t

    @property
    def spec(self) -> dict[str, Any]:
        """Plain containers from which `path_from_spec` rebuilds a shipped path."""
        return {"name": type(self).__name__}

    def interpolate(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t for data x0 [B, *D], noise eps [B, *D] and t [B] or scalar."""
        c = self.coefficients(t).like(x0)
        return c.alpha * x0 + c.sigma * eps  # [B, *D]

    def log_snr(self, t: Tensor) -> Tensor:
        """2 ln(alpha/sigma): +inf where there is no noise, -inf where there is no signal."""
        c = self.coefficients(t)
        return 2 * (c.alpha.log() - c.sigma.log())


@dataclass(frozen=True)
class LinearFlow(GaussianPath):
    """Rectified flow: alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023, eq. 20)."""

    time_scale: float = 1000.0

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(1 - t, t, -one, one)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "LinearFlow", "time_scale": self.time_scale}


@dataclass(frozen=True)
class Trigonometric(GaussianPath):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): GVP of Ma et al. 2024 (SiT), with time turned to noise."""

    def coefficients(self, t: Tensor) -> Coefficients:
        rate = math.pi / 2
        sine, cosine = torch.sin(rate * t), torch.sin(rate * (1 - t))  # sin(1 - .): exactly 0 at t = 1
        return Coefficients(cosine, sine, -rate * sine, rate * cosine)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


@dataclass(frozen=True)
class VPContinuous(GaussianPath):
    """Variance-preserving SDE (Song et al. 2021b, eq. 32): alpha^2 = exp(-integral of beta), beta = r(t)^power.

    r is linear in t, so power 1 is the linear schedule and power 2, with beta_min 0.85 and beta_max 12, the continuous
    limit of latent diffusion's. sigma rises as sqrt(t): its derivative is infinite at t = 0.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    power: int = 1

    def _root(self, t: Tensor) -> tuple[float, float, Tensor]:
        low, high = self.beta_min ** (1 / self.power), self.beta_max ** (1 / self.power)
        return low, high - low, low + (high - low) * t

    def coefficients(self, t: Tensor) -> Coefficients:
        low, _, root = self._root(t)
        n = self.power + 1
        # (root^n - low^n) / (n rise), divided out: exactly 0 at t = 0.
        integral = t * sum(root**k * low ** (n - 1 - k) for k in range(n)) / n
        beta = root**self.power
        alpha, sigma = torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))
        return Coefficients(alpha, sigma, -beta / 2 * alpha, beta / 2 * alpha**2 / sigma)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        low, rise, _ = self._root(log_snr)
        n = self.power + 1
        integral = torch.nn.functional.softplus(-log_snr)  # ln(1 + u^2)
        return (((n * rise * integral + low**n) ** (1 / n) - low) / rise).clamp(0, 1)

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "VPContinuous", "beta_min": self.beta_min, "beta_max": self.beta_max, "power": self.power}


@dataclass(frozen=True)
class VarianceExploding(GaussianPath):
    """alpha = 1, sigma = sigma_max t^rho: the coordinates of EDM (Karras et al. 2022, eq. 5 with sigma_min 0).

    The network is told ln(sigma)/4 (table 1); `Denoiser` scales its input where it predicts the kind "edm".
    """

    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (self.sigma_max > 0 and self.rho >= 1):
            raise ValueError(f"path needs sigma_max > 0 and rho >= 1, got {self.sigma_max} and {self.rho}")

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(one, self.sigma_max * t**self.rho, 0 * one, self.sigma_max * self.rho * t ** (self.rho - 1))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp((-log_snr / 2 - math.log(self.sigma_max)) / self.rho).clamp(0, 1)

    def network_time(self, t: Tensor) -> Tensor:
        return self.coefficients(t).sigma.log() / 4

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "VarianceExploding", "sigma_max": self.sigma_max, "rho": self.rho}


@dataclass(frozen=True)
class Shifted(GaussianPath):
    """`path` walked at another pace: at the same t sigma/alpha is multiplied by `shift` (Esser et al. 2024, eq. 23).

    Only t is renamed. The network is told what it is told at that noise level of `path`, and the derivatives stay
    those in the time of `path`, so that a velocity means what it meant when the network learned it.
    """

    path: GaussianPath
    shift: float = 3.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"path.shift must be positive, got {self.shift}")
        if self.shift > 1 and not bool(self.path.log_snr(torch.ones(())).isinf()):
            raise ValueError(f"path.shift={self.shift} above 1 needs a path that reaches pure noise")

    def _inner(self, t: Tensor) -> Tensor:
        inner = self.path.t_from_log_snr(self.path.log_snr(t) - 2 * math.log(self.shift))
        return torch.where((t == 0) | (t == 1), t, inner) if self.shift > 1 else torch.where(t == 0, t, inner)

    def coefficients(self, t: Tensor) -> Coefficients:
        return self.path.coefficients(self._inner(t))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.path.t_from_log_snr(log_snr + 2 * math.log(self.shift))

    def network_time(self, t: Tensor) -> Tensor:
        return self.path.network_time(self._inner(t))

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "Shifted", "path": self.path.spec, "shift": self.shift}


class DiscreteVP(GaussianPath):
    """Variance-preserving diffusion on a table of betas (Ho et al. 2020), read at any t.

    Index i of the table has i + 1 betas applied, so it sits at t = (i + 1) / T, and t = 0 is clean data. Between two
    indices ln(sigma/alpha) is linear in the index (the convention of k-diffusion); below index 0 sigma/alpha itself
    is linear, so that t = 0 is exact. At a knot the derivative is the one from the right, at the last from the left.
    The network is told the index T t - 1. The constructors below do not rescale betas: a table of other than a
    thousand steps wants other betas to end in noise.

    zero_terminal_snr=True shifts and stretches sqrt(alpha_bar) so that the last entry is pure noise and the first is
    kept (Lin et al. 2024, algorithm 1); before the last entry alpha/sigma is linear, so that t = 1 is exact.
    """

    def __init__(
        self, betas: Sequence[float], recipe: dict[str, Any] | None = None, *, zero_terminal_snr: bool = False
    ):
        """`betas`: T >= 2 numbers in (0, 1). `recipe` is how a constructor below made them, kept for `spec`."""
        table = torch.tensor(list(betas), dtype=torch.float64)
        if len(table) < 2 or not bool(((table > 0) & (table < 1)).all()):
            raise ValueError(f"betas must be at least two numbers inside (0, 1), got {len(table)} of them")
        log_alpha_bar = torch.log1p(-table).cumsum(0)
        if zero_terminal_snr:
            root = torch.exp(log_alpha_bar / 2)
            log_alpha_bar = 2 * ((root - root[-1]) * (root[0] / (root[0] - root[-1]))).log()  # ends at -inf
        # u = sigma/alpha = sqrt(1/alpha_bar - 1), through expm1 so that the first entries keep their digits.
        log_u = torch.expm1(-log_alpha_bar).log() / 2
        self._log_u = {log_u.device: log_u}  # one copy a device
        self._spec = (recipe or {"name": "DiscreteVP", "betas": table.tolist()}) | (
            {"zero_terminal_snr": True} if zero_terminal_snr else {}
        )
        self.num_steps = len(table)
        # The last index from which ln u is linear to its right neighbour.
        self._last_linear = self.num_steps - (3 if zero_terminal_snr else 2)
        if self._last_linear < 0:
            raise ValueError("zero_terminal_snr needs a table of at least three betas")

    @classmethod
    def linear(
        cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, *, zero_terminal_snr: bool = False
    ) -> DiscreteVP:
        """Linear betas of DDPM and DiT (Ho et al. 2020, section 4)."""
        betas = torch.linspace(beta_start, beta_end, _at_least_two(steps), dtype=torch.float64)
        recipe = {"name": "DiscreteVP.linear", "steps": steps, "beta_start": beta_start, "beta_end": beta_end}
        return cls(betas.tolist(), recipe, zero_terminal_snr=zero_terminal_snr)

    @classmethod
    def scaled_linear(
        cls, steps: int = 1000, beta_start: float = 8.5e-4, beta_end: float = 0.012, *, zero_terminal_snr: bool = False
    ) -> DiscreteVP:
        """Betas linear in their square root, as in latent diffusion (Rombach et al. 2022)."""
        roots = torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), _at_least_two(steps), dtype=torch.float64)
        recipe = {"name": "DiscreteVP.scaled_linear", "steps": steps, "beta_start": beta_start, "beta_end": beta_end}
        return cls(roots.square().tolist(), recipe, zero_terminal_snr=zero_terminal_snr)

    @classmethod
    def cosine(
        cls, steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999, *, zero_terminal_snr: bool = False
    ) -> DiscreteVP:
        """Squared-cosine alpha_bar with clipped betas (Nichol and Dhariwal 2021, eq. 17)."""
        t = torch.arange(_at_least_two(steps) + 1, dtype=torch.float64) / steps
        alpha_bar = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)
        recipe = {"name": "DiscreteVP.cosine", "steps": steps, "offset": offset, "max_beta": max_beta}
        return cls(betas.tolist(), recipe, zero_terminal_snr=zero_terminal_snr)

    @classmethod
    def sigmoid(cls, steps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> DiscreteVP:
        """alpha_bar falls as a sigmoid of t (Jabri et al. 2023), floored at 1e-9 so that every beta is below 1."""
        t = torch.arange(_at_least_two(steps) + 1, dtype=torch.float64) / steps
        low, high = (torch.sigmoid(torch.tensor(v / tau, dtype=torch.float64)) for v in (start, end))
        alpha_bar = ((high - torch.sigmoid((t * (end - start) + start) / tau)) / (high - low)).clamp(min=1e-9)
        recipe = {"name": "DiscreteVP.sigmoid", "steps": steps, "start": start, "end": end, "tau": tau}
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).tolist(), recipe)

    def _table_and_index(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # float64 throughout; Apple's GPUs have none, so there the few numbers of t take the CPU.
        device = torch.device("cpu") if t.device.type == "mps" else t.device
        if device not in self._log_u:
            self._log_u[device] = self._log_u[torch.device("cpu")].to(device)
        return self._log_u[device], t.to(device).double() * self.num_steps - 1

    def coefficients(self, t: Tensor) -> Coefficients:
        log_u, index = self._table_and_index(t)
        left = index.floor().clamp(0, self._last_linear).long()
        slope = log_u[left + 1] - log_u[left]
        on_table = torch.exp(log_u[left] + (index - left) * slope)
        first = log_u[0].exp()
        u = torch.where(index < 0, first * (index + 1), on_table)
        d_u = torch.where(index < 0, first, on_table * slope) * self.num_steps
        alpha = torch.rsqrt(1 + u.square())
        sigma, d_alpha, d_sigma = u * alpha, -(alpha**3) * u * d_u, alpha**3 * d_u
        if bool(log_u[-1].isinf()):
            # Before an entry without signal 1/u is linear: the mirror image of what happens below index 0.
            step = (-log_u[-2]).exp()
            inverse, beyond = step * (self.num_steps - 1 - index), index > self.num_steps - 2
            cosine = torch.rsqrt(1 + inverse.square())
            d_inverse = -step * self.num_steps
            alpha, sigma = torch.where(beyond, inverse * cosine, alpha), torch.where(beyond, cosine, sigma)
            d_alpha = torch.where(beyond, cosine**3 * d_inverse, d_alpha)
            d_sigma = torch.where(beyond, -(cosine**3) * inverse * d_inverse, d_sigma)
        values = (alpha, sigma, d_alpha, d_sigma)
        return Coefficients(*(value.to(t.dtype).to(t.device) for value in values))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        log_u, target = self._log_u[torch.device("cpu")], (-log_snr.detach().cpu().double() / 2)
        right = torch.searchsorted(log_u, target.contiguous()).clamp(1, self._last_linear + 1)
        index = right - 1 + (target - log_u[right - 1]) / (log_u[right] - log_u[right - 1])
        index = torch.where(target < log_u[0], torch.exp(target - log_u[0]) - 1, index)
        if bool(log_u[-1].isinf()):
            index = torch.where(target > log_u[-2], self.num_steps - 1 - torch.exp(log_u[-2] - target), index)
        return ((index + 1) / self.num_steps).clamp(0, 1).to(log_snr.dtype).to(log_snr.device)

    def network_time(self, t: Tensor) -> Tensor:
        return self.num_steps * t - 1

    @property
    def spec(self) -> dict[str, Any]:
        return self._spec


def _at_least_two(steps: int) -> int:
    if steps < 2:
        raise ValueError(f"steps of a beta table must be at least 2, got {steps}")
    return steps


_PATHS: dict[str, Callable[..., GaussianPath]] = {
    "LinearFlow": LinearFlow,
    "Trigonometric": Trigonometric,
    "VPContinuous": VPContinuous,
    "VarianceExploding": VarianceExploding,
    "Shifted": lambda path, shift: Shifted(path_from_spec(path), shift),
    "DiscreteVP": DiscreteVP,
    "DiscreteVP.linear": DiscreteVP.linear,
    "DiscreteVP.scaled_linear": DiscreteVP.scaled_linear,
    "DiscreteVP.cosine": DiscreteVP.cosine,
    "DiscreteVP.sigmoid": DiscreteVP.sigmoid,
}


def path_from_spec(spec: dict[str, Any]) -> GaussianPath:
    """The path that wrote `spec`. ValueError for a name this version does not know."""
    arguments = dict(spec)
    name = arguments.pop("name", None)
    if name not in _PATHS:
        raise ValueError(f"path {name!r} is unknown; known are {', '.join(_PATHS)}")
    return _PATHS[name](**arguments)
