"""Variance-preserving paths given as a table of betas: DDPM's, latent diffusion's, cosine, sigmoid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dit.checks import check_whole
from dit.diffusion.path import Coefficients, GaussianPath


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
        self._ends_in_noise = bool(log_u[-1].isinf())
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

    def _table_beside(self, values: Tensor) -> tuple[Tensor, Tensor]:
        # float64 throughout; Apple's GPUs have none, so there the few numbers take the CPU.
        device = torch.device("cpu") if values.device.type == "mps" else values.device
        if device not in self._log_u:
            self._log_u[device] = self._log_u[torch.device("cpu")].to(device, non_blocking=True)
        return self._log_u[device], values.to(device).double()

    def coefficients(self, t: Tensor) -> Coefficients:
        log_u, t64 = self._table_beside(t)
        index = t64 * self.num_steps - 1
        left = index.floor().clamp(0, self._last_linear).long()
        slope = log_u[left + 1] - log_u[left]
        on_table = torch.exp(log_u[left] + (index - left) * slope)
        first = log_u[0].exp()
        u = torch.where(index < 0, first * (index + 1), on_table)
        d_u = torch.where(index < 0, first, on_table * slope) * self.num_steps
        alpha = torch.rsqrt(1 + u.square())
        sigma, d_alpha, d_sigma = u * alpha, -(alpha**3) * u * d_u, alpha**3 * d_u
        if self._ends_in_noise:
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
        log_u, log_snr64 = self._table_beside(log_snr.detach())
        target = -log_snr64 / 2
        right = torch.searchsorted(log_u, target.contiguous()).clamp(1, self._last_linear + 1)
        index = right - 1 + (target - log_u[right - 1]) / (log_u[right] - log_u[right - 1])
        index = torch.where(target < log_u[0], torch.exp(target - log_u[0]) - 1, index)
        if self._ends_in_noise:
            index = torch.where(target > log_u[-2], self.num_steps - 1 - torch.exp(log_u[-2] - target), index)
        return ((index + 1) / self.num_steps).clamp(0, 1).to(log_snr.dtype).to(log_snr.device)

    def network_time(self, t: Tensor) -> Tensor:
        return self.num_steps * t - 1

    @property
    def spec(self) -> dict[str, Any]:
        return self._spec


def _at_least_two(steps: int) -> int:
    check_whole("steps of a beta table", steps, least=2, most=1_000_000)
    return steps
