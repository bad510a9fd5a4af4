"""At which t a network is trained: distributions on (0, 1), drawn through their quantile function."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dit.diffusion.path import GaussianPath
from dit.diffusion.prediction import check_positive

_CLEANEST = 60.0  # log-SNR


@dataclass(frozen=True)
class TimeDistribution(ABC):
    """A law of t.

    stratified: one draw in each of as many equal-probability strata as the batch has pictures: the same law, less
    variance. shift: sigma/alpha of every draw is multiplied by it, as
    larger pictures want more noise for the same loss of detail (Hoogeboom et al. 2023; Esser et al. 2024, section
    5.3.2); `token_shift` computes one.
    """

    stratified: bool = field(default=True, kw_only=True)
    shift: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_positive(self.shift, "times.shift")

    @abstractmethod
    def quantile(self, p: Tensor, path: GaussianPath) -> Tensor:
        """The t below which a fraction p of the draws lies, before the shift; p in (0, 1), any shape."""

    def sample(
        self,
        count: int,
        path: GaussianPath,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """t [count] in float32, strictly inside (0, 1); where stratified, in rising order."""
        uniform = torch.rand(count, device=device, generator=generator)  # [B]
        return self.at(uniform, torch.arange(count, device=device), count, path)  # [B]

    def at(self, uniform: Tensor, stratum: Tensor, strata: int, path: GaussianPath) -> Tensor:
        """t [B] in float32, strictly inside (0, 1), for draws `uniform` [B] in [0, 1); where stratified, these are the
        places inside stratum number `stratum` [B] of so many `strata`. See `spread`."""
        p = (stratum + uniform) / strata if self.stratified else uniform  # [B]
        # The division may round to 1 and a draw may be 0: neither end is a noise level to train on. EDM's sigma leaves
        # the range of float32 long before t does.
        cleanest = float(path.t_from_log_snr(torch.tensor(_CLEANEST, dtype=torch.float64)))
        return self._shifted(p.clamp(2**-25, 1 - 2**-24), path).clamp(max(2**-25, cleanest), 1 - 2**-24)  # [B]

    def check(self, path: GaussianPath) -> None:
        """ValueError where over a hundredth of the draws lie beyond the last level of `path`, to pile up there."""
        if float(self._shifted(torch.tensor(0.99, dtype=torch.float64), path)) >= 1:
            last = path.coefficients(torch.ones((), dtype=torch.float64))
            raise ValueError(
                f"times reaches beyond the path, whose last sigma/alpha is {float(last.sigma / last.alpha):.4g}: more "
                "than 1 % of the draws would be there; lower times.shift, mean, std or high"
            )

    def _shifted(self, p: Tensor, path: GaussianPath) -> Tensor:
        t = self.quantile(p, path)
        return t if self.shift == 1 else path.t_from_log_snr(path.log_snr(t) - 2 * math.log(self.shift))


def spread(places: int) -> Tensor:
    """The stratum [places] of each place in a batch, all different: neighbours in the batch are far apart in noise, so
    that whatever run of places one process or one micro-batch takes has all levels.

    The ranks of the multiples of the golden section modulo 1, which leave gaps of three sizes at most (Sós 1958).
    """
    multiples = torch.arange(places, dtype=torch.float64) * ((math.sqrt(5) - 1) / 2) % 1  # [places]
    return multiples.argsort().argsort()  # [places]


def token_shift(image_size: int, patch_size: int, base_tokens: int = 256) -> float:
    """sqrt(tokens / base_tokens): keeps how well the colour of a flat picture is known (Esser et al. 2024, eq. 23)."""
    return (image_size // patch_size) / math.sqrt(base_tokens)


@dataclass(frozen=True)
class Uniform(TimeDistribution):
    """t ~ U(0, 1)."""

    def quantile(self, p: Tensor, path: GaussianPath) -> Tensor:
        return p


@dataclass(frozen=True)
class LogitNormal(TimeDistribution):
    """logit(t) ~ N(mean, std^2) (Esser et al. 2024, eq. 19). A positive mean favours noise, as t = 1 is noise."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.std, "times.std")

    def quantile(self, p: Tensor, path: GaussianPath) -> Tensor:
        return torch.sigmoid(_normal_quantile(p, self.mean, self.std))


@dataclass(frozen=True)
class LogNormalSigma(TimeDistribution):
    """ln(sigma/alpha) ~ N(mean, std^2) on any path (Karras et al. 2022, section 5: -1.2 and 1.2)."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.std, "times.std")

    def quantile(self, p: Tensor, path: GaussianPath) -> Tensor:
        return path.t_from_log_snr(-2 * _normal_quantile(p, self.mean, self.std))


@dataclass(frozen=True)
class LogUniformSigma(TimeDistribution):
    """ln(sigma/alpha) uniform between the logarithms of `low` and `high`, on any path."""

    low: float = 0.002
    high: float = 80.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.low, "times.low")
        if not self.low < self.high:
            raise ValueError(f"times.high must exceed times.low={self.low}, got {self.high}")

    def quantile(self, p: Tensor, path: GaussianPath) -> Tensor:
        return path.t_from_log_snr(-2 * (math.log(self.low) + p * math.log(self.high / self.low)))


def _normal_quantile(p: Tensor, mean: float, std: float) -> Tensor:
    # Through erfinv: Apple's GPUs have no ndtri.
    return mean + std * math.sqrt(2) * torch.erfinv(2 * p - 1)
