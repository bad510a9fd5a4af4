"""What tells early that training goes wrong: losses by noise level, spikes, and averages far from the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm

from dit.model.adapters import trained
from dit.training.module import DiTModule
from dit.training.restored import check_form
from dit.training.resume import say
from dit.training.sharding import full
from dit.training.steps import StepCallback


class StabilityLog(StepCallback):
    """Logs with the trainer's other scalars, of all processes together:

    - `train/loss_log_snr/*`: the mean training loss, since the last time, of the pictures whose log-SNR fell between
      two of `edges`. A bin without pictures has no value.
    - `spikes/loss` and `spikes/gradient_norm`: how many optimiser steps so far stood out, each named in a line of text;
      see `Usual`.
    - `ema/distance_*`: |average - weights| / |weights|, of each average.

    edges: rising log-SNRs. spike: standard deviations. Nothing waits for the device between two logs.
    """

    def __init__(self, edges: Sequence[float] = (-6, -4, -2, 0, 2, 4, 6), spike: float = 6.0):
        if not edges or any(low >= high for low, high in pairwise(edges)):
            raise ValueError(f"callbacks.stability.edges must be rising log-SNRs, got {list(edges)}")
        if not spike > 0:
            raise ValueError(f"callbacks.stability.spike must be a positive number, got {spike!r}")
        self.edges = torch.tensor(edges, dtype=torch.float64)
        ends = [f"{edge:g}" for edge in edges]
        self.bins = [f"below_{ends[0]}", *(f"{low}_to_{high}" for low, high in pairwise(ends)), f"above_{ends[-1]}"]
        self.usual = {name: Usual(spike) for name in ("loss", "gradient_norm")}
        self._sums = torch.zeros(2, len(self.bins), dtype=torch.float64)  # of losses, and how many
        self._values: list[Tensor] = []  # since the last log: (loss, gradient norm) of each step, [2]

    def on_train_start(self, trainer: Trainer, pl_module: DiTModule) -> None:  # type: ignore[override]
        super().on_train_start(trainer, pl_module)
        self._trainer = trainer
        if not trainer.is_global_zero:  # whoever restored it restored that of all processes
            self._sums.zero_()
        self._sums, self.edges = self._sums.to(pl_module.device), self.edges.to(pl_module.device)
        self._values = [pair.to(pl_module.device) for pair in self._values]

    def on_step_end(self, trainer: Trainer, module: DiTModule) -> None:
        self._step = trainer.global_step
        t, losses = (torch.cat([getattr(part, name) for part in module.drawn]) for name in ("t", "losses"))
        self._add(module.denoiser.path.log_snr(t), losses)
        assert module.gradient_norm is not None
        self._values.append(torch.stack([losses.mean().double(), module.gradient_norm.double()]))
        if self._step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            values = self._by_level() | self._spikes() | _distances(module)
            for logger in trainer.loggers:  # not by `log`, which repeats what has no new value
                logger.log_metrics(values, step=self._step - 1)  # as Lightning counts

    def _add(self, log_snr: Tensor, losses: Tensor) -> None:
        """Of one step: log_snr and losses [B]."""
        finite = losses.isfinite()
        both = torch.stack([losses.where(finite, 0.0).double(), finite.double()])  # [2, B]
        # A log-SNR of infinity, at t = 0 or 1, falls into the bin at that end.
        self._sums.index_add_(1, torch.bucketize(log_snr.double(), self.edges, right=True), both)

    def _by_level(self) -> dict[str, float]:
        losses, counts = self._of_all(self._sums, "sum").tolist()
        self._sums.zero_()
        means = zip(self.bins, losses, counts, strict=True)
        return {f"train/loss_log_snr/{name}": loss / count for name, loss, count in means if count}

    def _spikes(self) -> dict[str, float]:
        values = self._of_all(torch.stack(self._values), "mean")  # [steps, 2]
        self._values = []
        for (name, usual), column in zip(self.usual.items(), values.T.tolist(), strict=True):
            for step, value in enumerate(column, start=self._step - len(column) + 1):
                before = usual.value
                if usual.meets(value):
                    say(f"step {step}: the {name.replace('_', ' ')} {value:.4g} stands out, usual is {before:.4g}")
        return {f"spikes/{name}": float(usual.spikes) for name, usual in self.usual.items()}

    def _of_all(self, mine: Tensor, how: str) -> Tensor:
        """On the CPU, of all processes; they must call it together."""
        both = self._trainer.strategy.reduce(mine.clone(), reduce_op=how)
        assert isinstance(both, Tensor)
        return both.cpu()

    def state_dict(self) -> dict[str, Any]:
        values = [self._of_all(pair, "mean").tolist() for pair in self._values]
        usual = {name: vars(usual) for name, usual in self.usual.items()}
        return {"sums": self._of_all(self._sums, "sum").tolist(), "bins": self.bins, "values": values, "usual": usual}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = state_dict if isinstance(state_dict, dict) else {}
        pairs, bins = state_dict.get("values"), state_dict.get("bins")
        mine = {
            "sums": self._sums.tolist() if bins == self.bins else state_dict.get("sums"),
            "bins": bins,
            "values": [[0.0, 0.0]] * (len(pairs) if isinstance(pairs, list) else 0),
            "usual": {name: vars(usual) for name, usual in self.usual.items()},
        }
        check_form("StabilityLog", state_dict, mine)
        if state_dict["bins"] == self.bins:  # else the window begins anew
            self._sums = torch.tensor(state_dict["sums"], dtype=torch.float64)
        self._values = [torch.tensor(pair, dtype=torch.float64) for pair in state_dict["values"]]
        for name, known in state_dict["usual"].items():
            vars(self.usual[name]).update({**known, "spike": self.usual[name].spike})


class Usual:
    """What a positive value usually is: mean and variance of its logarithm, of about the last 100.

    A value more than `spike` standard deviations above is a spike; the first 100 are none. A spike pulls the mean as if
    it were 3 deviations away, so that one does not hide the next, and a lasting change becomes usual.
    """

    def __init__(self, spike: float):
        self.spike, self.spikes, self.seen, self.mean, self.variance = spike, 0, 0, 0.0, 0.0

    @property
    def value(self) -> float:
        return math.exp(self.mean)

    def meets(self, value: float) -> bool:
        """Whether this one, which now counts among the last, is a spike. What is no positive number is passed over."""
        if not 0 < value < math.inf:
            return False
        share = 1 / min(self.seen + 1, 100)
        deviation = math.log(value) - self.mean
        bound = math.sqrt(self.variance)
        spike = self.seen >= 100 and deviation > self.spike * bound
        if self.seen >= 100:
            deviation = max(-3 * bound, min(3 * bound, deviation))
        self.mean += share * deviation
        self.variance = (1 - share) * (self.variance + share * deviation**2)
        self.seen += 1
        self.spikes += spike
        return spike


def _distances(module: DiTModule) -> dict[str, float]:
    weights = [weight.detach() for weight in trained(module.network).values()]
    norm = full(get_total_norm(weights))
    distances = {}
    for name, average in module.ema.averages.items():
        apart = [one - weight for one, weight in zip(average.values(), weights, strict=True)]
        distances[f"ema/distance_{name.replace(' ', '_')}"] = float(full(get_total_norm(apart)) / norm)
    return distances
