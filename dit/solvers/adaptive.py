"""Adaptive steps, by torchdiffeq (extra `adaptive`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dit.solvers.grid import smallest_t
from dit.solvers.guidance.rule import Denoise
from dit.solvers.solver import Solver


@dataclass(frozen=True)
class Dopri5(Solver):
    """Dormand and Prince's pair of orders 5 and 4 between every two levels of the grid, which may be as few as two.

    clock="rectified": x / (alpha + sigma) against sigma / (alpha + sigma), flow's time, from pure noise on;
    clock="log_snr": the unit-variance x against log-SNR, from a level with some signal on. sigma/alpha itself is no
    clock for a step-size control. rtol, atol: of a step, as a root mean square over the whole batch, so an image
    depends on its neighbours to about that much. The last stretch to clean data, below sigma/alpha = u_min, is one
    Euler step.
    """

    rtol: float = 1e-3
    atol: float = 1e-3
    clock: Literal["rectified", "log_snr"] = "rectified"
    u_min: float = 2e-3
    order = 5
    evaluations = 6  # at least
    couples_images = True

    def __post_init__(self) -> None:
        if self.clock not in ("rectified", "log_snr"):
            raise ValueError(f"solver.clock must be rectified or log_snr, got {self.clock!r}")
        for name in ("rtol", "atol", "u_min"):
            if not getattr(self, name) > 0:
                raise ValueError(f"solver.{name} must be positive, got {getattr(self, name)}")

    def check(self, denoiser: Denoise, grid: Tensor) -> None:
        _odeint()
        if self.clock == "log_snr" and math.isinf(float(denoiser.path.log_snr(grid[0]))):
            raise ValueError(
                "solver.clock=log_snr needs a grid that starts with some signal; from pure noise: rectified"
            )

    def step(self, predict, path, x, t, t_next, state, noise):
        target = t_next
        if float(path.coefficients(t_next).sigma) == 0:
            target = torch.maximum(
                path.t_from_log_snr(torch.tensor(-2 * math.log(self.u_min), dtype=torch.float64)), smallest_t(path)
            )
        # A grid may end where u_min is, but for rounding: such an interval is no interval.
        if float(t) - float(target) > 1e-9:
            x = self._integrate(predict, path, x, t, target)
        if target is not t_next:
            x = predict(x, torch.minimum(t, target)).x0
        return x, state

    def _integrate(self, predict, path, x: Tensor, t: Tensor, target: Tensor) -> Tensor:
        rectified = self.clock == "rectified"

        def norm(at: Tensor) -> Tensor:
            c = path.coefficients(at).like(x)
            return c.alpha + c.sigma if rectified else (c.alpha**2 + c.sigma**2).sqrt()

        ends = torch.stack([torch.sigmoid(-end / 2) if rectified else end for end in map(path.log_snr, (t, target))])

        def slope(clock: Tensor, y: Tensor) -> Tensor:
            # torchdiffeq tries its first step before it knows where the interval ends.
            clock = clock.cpu().clamp(ends.min(), ends.max())
            if rectified:
                at = t if float(clock) >= 1 else path.t_from_log_snr(2 * ((1 - clock) / clock).log())
                a, b = torch.tensor(-1.0), torch.tensor(1.0)
            else:
                at = path.t_from_log_snr(clock)
                signal, noise = torch.sigmoid(clock).sqrt(), torch.sigmoid(-clock).sqrt()
                a, b = signal * noise**2 / 2, -(signal**2) * noise / 2
            value = predict(norm(at) * y, at).combine(a.to(y), b.to(y))  # [B, *D]
            if not bool(value.isfinite().all()):
                raise FloatingPointError(f"sampling became non-finite near log-SNR {float(path.log_snr(at)):.2f}")
            return value

        clock = ends.to(x.device)
        # step_t: without it the last step runs past the end, where there may be no noise level, and is interpolated.
        trajectory = _odeint()(
            slope, x / norm(t), clock, method="dopri5", rtol=self.rtol, atol=self.atol, options={"step_t": clock[1:]}
        )
        return norm(target) * torch.as_tensor(trajectory[-1])  # [B, *D]


def _odeint():
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise ValueError("solver Dopri5 needs torchdiffeq: pip install 'ditlab[adaptive]'") from error
    return odeint
