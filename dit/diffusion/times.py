"""At which t a network is trained: distributions on (0, 1), drawn through their quantile function."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class TimeDistribution(ABC):
    """A law of t. `stratified` puts one draw in each of B equal-probability strata: the same law, less variance."""

    stratified: bool = field(default=True, kw_only=True)

    @abstractmethod
    def quantile(self, p: Tensor) -> Tensor:
        """The t below which a fraction p of the draws lies; p in (0, 1), any shape."""

    def sample(
        self, count: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> Tensor:
        """t [count] in float32, strictly inside (0, 1)."""
        p = torch.rand(count, device=device, generator=generator)  # [B]
        if self.stratified:
            p = (torch.arange(count, device=device) + p) / count  # [B]
        # rand may return 0 and the division above may round to 1: neither end is a noise level to train on.
        return self.quantile(p.clamp(2**-25, 1 - 2**-24)).clamp(2**-25, 1 - 2**-24)  # [B]


@dataclass(frozen=True)
class Uniform(TimeDistribution):
    """t ~ U(0, 1)."""

    def quantile(self, p: Tensor) -> Tensor:
        return p


@dataclass(frozen=True)
class LogitNormal(TimeDistribution):
    """logit(t) ~ N(mean, std^2) (Esser et al. 2024, eq. 19). A positive mean favours noise, as t = 1 is noise."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"times.std must be positive, got {self.std}")

    def quantile(self, p: Tensor) -> Tensor:
        # The normal quantile, through erfinv: Apple's GPUs have no ndtri.
        return torch.sigmoid(self.mean + self.std * math.sqrt(2) * torch.erfinv(2 * p - 1))
