"""Exponential moving averages of the network alone: float32, warmed up, several decays at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """avg <- d avg + (1 - d) weights after each optimiser step n = 1, 2, ..., with d = min(decay, n / (n + warmup)).

    The warm-up (as in TensorFlow's ExponentialMovingAverage) keeps the random initial weights from lingering: early on
    the average reaches back over a fraction of the run. `warmup=0` starts with the full decay.

    decays: one or several, each in [0, 1); the first is the one previews and validation use.
    """

    def __init__(self, decays: Sequence[float] = (0.9999,), warmup: float = 10.0):
        if isinstance(decays, int | float | str) or not decays or not all(0 <= d < 1 for d in decays):
            raise ValueError(f"ema.decays must be a list of one or more numbers in [0, 1), got {decays}")
        if len({str(float(d)) for d in decays}) < len(decays):
            raise ValueError(f"ema.decays must differ, got {list(decays)}")
        if warmup < 0:
            raise ValueError(f"ema.warmup must not be negative, got {warmup}")
        self.decays = [float(d) for d in decays]
        self.warmup = warmup
        self.steps = 0
        self.averages: dict[str, dict[str, Tensor]] = {}

    def attach(self, network: nn.Module) -> None:
        """Start from the network's weights, or move restored averages to its device."""
        weights = dict(network.named_parameters())
        for decay in map(str, self.decays):
            source = self.averages.get(decay, weights)
            # clone: the average must never share memory with the live weights.
            self.averages[decay] = {
                name: source[name].detach().to(device=weight.device, dtype=torch.float32, copy=True)
                for name, weight in weights.items()
            }

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Count one optimiser step and move every average towards the weights."""
        self.steps += 1
        live = [weight.float() for weight in network.parameters()]
        for decay in self.decays:
            share = 1 - self.decay_now(decay)
            for average, weight in zip(self.averages[str(decay)].values(), live, strict=True):
                average.lerp_(weight, share)

    def decay_now(self, decay: float) -> float:
        """The decay in force at the current step."""
        return min(decay, self.steps / (self.steps + self.warmup)) if self.warmup else decay

    @contextmanager
    @torch.no_grad()
    def applied(self, network: nn.Module, decay: float | None = None) -> Iterator[None]:
        """Inside, the network has the averaged weights; afterwards its own again, also if the body raises.

        Values are copied in place, so that compiled and wrapped networks see them.
        """
        averages = self.averages[str(self.decays[0] if decay is None else float(decay))]
        weights = dict(network.named_parameters())
        backup = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            for name, weight in weights.items():
                weight.copy_(averages[name])
            yield
        finally:
            for name, weight in weights.items():
                weight.copy_(backup[name])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError where the checkpoint averaged with other decays: an average cannot be made up afterwards."""
        missing = [d for d in map(str, self.decays) if d not in state["averages"]]
        if missing:
            raise ValueError(
                f"ema.decays asks for {', '.join(missing)}, but the checkpoint holds {', '.join(state['averages'])}"
            )
        self.steps = state["steps"]
        self.averages = {d: state["averages"][d] for d in map(str, self.decays)}
