"""Learning-rate schedules, in optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dit.checks import check_number, check_whole

# The rate at a share x in [0, 1] of the cooldown, over the peak.
_COOLDOWNS: dict[str, Callable[[float], float]] = {"linear": lambda x: 1 - x, "sqrt": lambda x: 1 - math.sqrt(x)}


def constant(optimizer: Optimizer, warmup: int = 0) -> LambdaLR:
    """Linear rise over `warmup` steps, then constant. Raises ValueError for a negative warmup."""
    check_whole("lr_schedule.warmup", warmup, least=0)
    return LambdaLR(optimizer, lambda step: _rise(step, warmup))


def cosine(optimizer: Optimizer, total: int, warmup: int = 0, final: float = 0.0) -> LambdaLR:
    """Linear rise over `warmup` steps, then half a cosine down to `final` x the peak at step `total`.

    Raises ValueError for a negative warmup, one that is not over before `total`, and a `final` outside of [0, 1].
    """
    check_whole("lr_schedule.warmup", warmup, least=0)
    check_number("lr_schedule.final", final, least=0, most=1)
    if total <= warmup:
        raise ValueError(f"lr_schedule.total must exceed lr_schedule.warmup={warmup}, got {total} (trainer.max_steps)")

    def factor(step: int) -> float:
        progress = min(max(step - warmup, 0) / (total - warmup), 1.0)
        return _rise(step, warmup) * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)

    return LambdaLR(optimizer, factor)


def wsd(
    optimizer: Optimizer, total: int, warmup: int = 0, cooldown: int | None = None, shape: str = "sqrt"
) -> LambdaLR:
    """Warm-up, stable, decay: linear rise over `warmup` steps, constant, then down to zero at step `total` over the
    last `cooldown` steps, a fifth of all by default (Hägele et al. 2024, section 3).

    Until the cooldown begins, the rate does not depend on `total`: a run can be prolonged from a checkpoint of before.
    shape: "sqrt" for 1 - sqrt(x) of the share x of the cooldown, or "linear" for 1 - x. ValueError where the parts do
    not fit into `total`.
    """
    cooldown = max(1, total // 5) if cooldown is None else cooldown
    check_whole("lr_schedule.warmup", warmup, least=0)
    if shape not in _COOLDOWNS:
        raise ValueError(f"lr_schedule.shape must be one of {', '.join(_COOLDOWNS)}, got {shape!r}")
    if cooldown < 1 or warmup + cooldown > total:
        raise ValueError(
            f"lr_schedule.cooldown must be at least 1 and fit with lr_schedule.warmup={warmup} into {total} steps "
            f"(trainer.max_steps), got {cooldown}"
        )

    def factor(step: int) -> float:
        return _rise(step, warmup) * _COOLDOWNS[shape](min(max(step - (total - cooldown), 0) / cooldown, 1.0))

    return LambdaLR(optimizer, factor)


def _rise(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
