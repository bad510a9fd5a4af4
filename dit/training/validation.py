"""Validation loss on a fixed quadrature over log-SNR: one yardstick for every schedule, kind and loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from torch import Tensor

from dit.checks import check_value
from dit.diffusion import Denoiser, GaussianPath
from dit.solvers import ImageNoise


@dataclass(frozen=True)
class LevelLoss:
    """Squared error of v at fixed log-SNR levels, with noise fixed per picture.

    v = (eps - u x0) / sqrt(1 + u^2), u = sigma/alpha, in the frame where alpha^2 + sigma^2 = 1, so that the error is
    (1 + 1/u^2) times that of x0 on any path. Bounded at both ends (Salimans and Ho 2022), it is comparable between
    schedules, where a training loss falls as soon as easier levels are drawn. The default levels lie inside the range
    of every shipped path.
    """

    levels: Annotated[Sequence[float], MinLen(1)] = (-5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 7.0)
    seed: int = 0

    def __post_init__(self) -> None:
        check_value("validation.levels", list(self.levels), Annotated[Sequence[float], MinLen(1)])

    def check(self, path: GaussianPath) -> None:
        """ValueError where a level lies outside `path`: its loss would be that of another level."""
        for level in self.levels:
            reached = float(path.log_snr(path.t_from_log_snr(torch.tensor(level, dtype=torch.float64))))
            if abs(reached - level) > 1e-6:
                raise ValueError(
                    f"validation.levels must lie on the path; {level:g} does not, the nearest is {reached:.2f}"
                )

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        labels: Tensor,
        index: Tensor,
        conditions: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> dict[float, Tensor]:
        """Mean loss by level for pictures x0 [B, C, H, W] with labels [B], their numbers `index` [B], and conditions
        [B, ...] by name."""
        eps = ImageNoise(self.seed, index.tolist(), x0.shape[1:], x0.device).draw()  # [B, C, H, W]
        losses, told = {}, dict[str, Any](conditions)
        for level in self.levels:
            t = denoiser.path.t_from_log_snr(torch.tensor(level, dtype=torch.float64))
            error = denoiser(denoiser.path.interpolate(x0, eps, t), t, labels, **told).x0 - x0  # [B, C, H, W]
            losses[level] = (1 + torch.tensor(level).exp()) * error.square().mean()
        return losses

    def scalars(self, losses: dict[float, Tensor]) -> dict[str, Tensor]:
        """What there is to log of losses by level: `loss` over all levels, `loss_log_snr+1` of one, and the same errors
        seen as those of x0 and of eps, as `loss_x0` and `loss_eps`.

        The squared error of v is 1 + SNR times that of x0, that of eps SNR times. Their means over the levels weigh
        differently: that of x0 hangs on high noise, that of eps on low noise.
        """
        named = {}
        for space, ending in (("v", ""), ("x0", "_x0"), ("eps", "_eps")):
            seen = {level: loss * _gain(space, level) for level, loss in losses.items()}
            named[f"loss{ending}"] = torch.stack(list(seen.values())).mean()
            named |= {f"loss{ending}_log_snr{level:+g}": loss for level, loss in seen.items()}
        return named


def _gain(space: str, level: float) -> float:
    """From a squared error of v to that of `space`, at a log-SNR."""
    snr = math.exp(level)
    return {"v": 1.0, "x0": 1 / (1 + snr), "eps": snr / (1 + snr)}[space]
