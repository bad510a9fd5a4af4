"""Averages of the network alone, in float32, several at once: of constant decays, or EDM2's power functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dit.checkpoint import check_length, gamma
from dit.model.adapters import trained


class Averages(ABC):
    """avg <- d avg + (1 - d) weights after each optimiser step n = 1, 2, ...; subclasses say which d.

    Of the weights that are trained: the others are the same in every average. The first of `names` is the one previews
    and validation use. setting: where the configuration lists them. Sharded weights have sharded averages, of which
    each process keeps its part.
    """

    def __init__(self, names: Sequence[str], setting: str):
        self.names, self.setting = list(names), setting
        self.steps = 0
        self.averages: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def decay_now(self, name: str) -> float:
        """The decay in force at the current step, in [0, 1]."""

    def attach(self, network: nn.Module) -> None:
        """Start from the network's weights, or move restored averages to its device."""
        weights = trained(network)
        for average in self.names:
            source = self.averages.get(average, weights)
            # copy: the average must never share memory with the live weights.
            self.averages[average] = {
                name: source[name].detach().to(device=weight.device, dtype=torch.float32, copy=True)
                for name, weight in weights.items()
            }

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Count one optimiser step and move every average towards the weights."""
        self.steps += 1
        live = [weight.detach().float() for weight in trained(network).values()]
        for name in self.names:
            # One launch for all tensors on a GPU, where a loop would launch hundreds.
            averages = list(self.averages[name].values())
            torch._foreach_lerp_(averages, live, 1 - self.decay_now(name))  # type: ignore[attr-defined]

    @contextmanager
    @torch.no_grad()
    def applied(self, network: nn.Module, name: str | None = None) -> Iterator[None]:
        """Inside, the network has the averaged weights; afterwards its own again, also if the body raises.

        Values are copied in place, so that compiled and wrapped networks see them.
        """
        averages = self.averages[self.names[0] if name is None else name]
        weights = {name: weight for name, weight in network.named_parameters() if name in averages}
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
        """ValueError where the checkpoint has other averages: one cannot be made up afterwards."""
        missing = [name for name in self.names if name not in state["averages"]]
        if missing:
            raise ValueError(
                f"{self.setting} asks for {', '.join(missing)}, but the checkpoint holds {', '.join(state['averages'])}"
            )
        self.steps = state["steps"]
        self.averages = {name: state["averages"][name] for name in self.names}


class Ema(Averages):
    """Constant decays, warmed up: d = min(decay, n / (n + warmup)).

    The warm-up (as in TensorFlow's ExponentialMovingAverage) keeps the random initial weights from lingering: early on
    the average reaches back over a fraction of the run. `warmup=0` starts with the full decay.

    decays: one or several, each in [0, 1).
    """

    def __init__(self, decays: Sequence[float] = (0.9999,), warmup: float = 10.0):
        if isinstance(decays, int | float | str) or not decays or not all(0 <= d < 1 for d in decays):
            raise ValueError(f"ema.decays must be a list of one or more numbers in [0, 1), got {decays}")
        self.decays = {str(float(d)): float(d) for d in decays}
        if len(self.decays) < len(decays):
            raise ValueError(f"ema.decays must differ, got {list(decays)}")
        if warmup < 0:
            raise ValueError(f"ema.warmup must not be negative, got {warmup}")
        self.warmup = warmup
        super().__init__(list(self.decays), "ema.decays")

    def decay_now(self, name: str) -> float:
        decay = self.decays[name]
        return min(decay, self.steps / (self.steps + self.warmup)) if self.warmup else decay


class PowerEma(Averages):
    """Power functions of the step (Karras et al. 2024, EDM2, section 3): d = (1 - 1/n)^(gamma + 1), which weighs the
    weights of step s at step n by (s/n)^(gamma + 1) - ((s - 1)/n)^(gamma + 1), and the initial ones not at all.

    lengths: one or several, the standard deviation of those weights as a share of the run so far, at most 0.2887. Two,
    and snapshots of them, are enough to make up others after training.
    """

    def __init__(self, lengths: Sequence[float] = (0.05, 0.1)):
        if isinstance(lengths, int | float | str) or not lengths:
            raise ValueError(f"ema.lengths must be a list of one or more numbers, got {lengths}")
        for length in lengths:
            check_length("ema.lengths", length)
        self.exponents = {f"length {float(length)}": gamma(length) + 1 for length in lengths}
        if len(self.exponents) < len(lengths):
            raise ValueError(f"ema.lengths must differ, got {list(lengths)}")
        super().__init__(list(self.exponents), "ema.lengths")

    def decay_now(self, name: str) -> float:
        return (1 - 1 / self.steps) ** self.exponents[name]
