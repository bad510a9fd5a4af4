"""The forward process: x_t = alpha(t) x0 + sigma(t) eps. t = 0 is data, t = 1 is noise, and t rises with noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor


def per_image(values: Tensor, x: Tensor) -> Tensor:
    """values [B], one per image, shaped to broadcast over x [B, *D]."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


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
            return per_image(c, x) if c.ndim else c

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
class ContinuousPath(GaussianPath):
    """A path whose alpha and sigma are formulas in t, with the conventions that networks of others were trained in.

    time_scale: the network is given time_scale t. data_time: it is given time_scale (1 - t), as in SiT, LightningDiT
    and JiT. noise_scale: sigma is multiplied by it, so that t = 1 has noise of this standard deviation (Li and He 2025,
    JiT: 2 at 512 pixels). Raises ValueError if a scale is not a positive number or data_time not a boolean.

    A leaf gives both formulas at noise_scale 1.
    """

    time_scale: float = field(default=1000.0, kw_only=True)
    data_time: bool = field(default=False, kw_only=True)
    noise_scale: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("time_scale", "noise_scale"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"path.{name} must be a positive number, got {value!r}")
        if not isinstance(self.data_time, bool):
            raise ValueError(f"path.data_time must be true or false, got {self.data_time!r}")

    @abstractmethod
    def unit_coefficients(self, t: Tensor) -> Coefficients:
        """`coefficients` at noise_scale 1."""

    @abstractmethod
    def unit_t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """`t_from_log_snr` at noise_scale 1."""

    def coefficients(self, t: Tensor) -> Coefficients:
        c, scale = self.unit_coefficients(t), self.noise_scale
        return c if scale == 1 else Coefficients(c.alpha, scale * c.sigma, c.d_alpha, scale * c.d_sigma)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.unit_t_from_log_snr(log_snr if self.noise_scale == 1 else log_snr + 2 * math.log(self.noise_scale))

    def network_time(self, t: Tensor) -> Tensor:
        return self.time_scale * (1 - t if self.data_time else t)

    @property
    def spec(self) -> dict[str, Any]:
        # Only what is not the default, so that specs written before an option existed stay equal.
        conventions = (f for f in fields(ContinuousPath) if getattr(self, f.name) != f.default)
        return {"name": type(self).__name__} | {f.name: getattr(self, f.name) for f in conventions}


@dataclass(frozen=True)
class LinearFlow(ContinuousPath):
    """Rectified flow: alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023, eq. 20)."""

    def unit_coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(1 - t, t, -one, one)

    def unit_t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "LinearFlow", "time_scale": self.time_scale} | super().spec


@dataclass(frozen=True)
class Trigonometric(ContinuousPath):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): GVP of Ma et al. 2024 (SiT), with time turned to noise."""

    def unit_coefficients(self, t: Tensor) -> Coefficients:
        rate = math.pi / 2
        sine, cosine = torch.sin(rate * t), torch.sin(rate * (1 - t))  # sin(1 - .): exactly 0 at t = 1
        return Coefficients(cosine, sine, -rate * sine, rate * cosine)

    def unit_t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


@dataclass(frozen=True)
class VPContinuous(ContinuousPath):
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

    def unit_coefficients(self, t: Tensor) -> Coefficients:
        low, _, root = self._root(t)
        n = self.power + 1
        # (root^n - low^n) / (n rise), divided out: exactly 0 at t = 0.
        integral = t * sum(root**k * low ** (n - 1 - k) for k in range(n)) / n
        beta = root**self.power
        alpha, sigma = torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))
        return Coefficients(alpha, sigma, -beta / 2 * alpha, beta / 2 * alpha**2 / sigma)

    def unit_t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        low, rise, _ = self._root(log_snr)
        n = self.power + 1
        integral = torch.nn.functional.softplus(-log_snr)  # ln(1 + u^2)
        return (((n * rise * integral + low**n) ** (1 / n) - low) / rise).clamp(0, 1)

    @property
    def spec(self) -> dict[str, Any]:
        own = {"beta_min": self.beta_min, "beta_max": self.beta_max, "power": self.power}
        return {"name": "VPContinuous"} | own | super().spec


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
