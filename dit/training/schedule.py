"""Learning-rate schedules, in optimiser steps."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, warmup: int = 0) -> LambdaLR:
    """Linear rise over `warmup` steps, then constant."""
    return LambdaLR(optimizer, lambda step: _rise(step, warmup))


def cosine(optimizer: Optimizer, total: int, warmup: int = 0, final: float = 0.0) -> LambdaLR:
    """Linear rise over `warmup` steps, then half a cosine down to `final` x the peak at step `total`."""
    if total <= warmup:
        raise ValueError(f"scheduler.total must exceed scheduler.warmup={warmup}, got {total} (trainer.max_steps)")

    def factor(step: int) -> float:
        progress = min(max(step - warmup, 0) / (total - warmup), 1.0)
        return _rise(step, warmup) * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)

    return LambdaLR(optimizer, factor)


def _rise(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
