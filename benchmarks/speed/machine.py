"""The machine: what it is, how much memory a process took, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.rounds import timed
from benchmarks.speed.models import arguments, tokens


def describe(device: str) -> dict[str, Any]:
    """What a figure hangs on, in plain containers."""
    from importlib.metadata import version

    told = {
        "device": device,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "lightning")},
    }
    return told | ({"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if device == "cuda" else {})


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


def waiting(device: str):
    """What to call before a clock is read."""
    return torch.cuda.synchronize if device == "cuda" else None


class Products:
    """THE CEILING: plain matrix products as arms, to take turns with whatever is a share of them.

    Of squares, and of the first layer of the model's MLP; by arm "precision, M x K x N".
    """

    def __init__(self, device: str, model: str, batch: int, precisions: Sequence[str], quick: bool):
        squares = (256,) if quick else (4096, 8192) if device == "cuda" else (2048, 3072)
        width = arguments(model)["hidden_size"]
        shapes = [*((side, side, side) for side in squares), (batch * tokens(model), width, 4 * width)]
        self.work = {f"{precision}, {m} x {k} x {n}": 2 * m * k * n for precision in precisions for m, k, n in shapes}
        self.arms = {
            f"{precision}, {m} x {k} x {n}": timed(_product(m, k, n, device, precision), waiting(device))
            for precision in precisions
            for m, k, n in shapes
        }

    def rates(self, seconds: dict[str, list[float]]) -> dict[str, dict[str, list[float]]]:
        """By precision and shape, FLOP/s of each round."""
        found: dict[str, dict[str, list[float]]] = {}
        for arm, work in self.work.items():
            precision, shape = arm.split(", ")
            found.setdefault(precision, {})[shape] = [work / spent for spent in seconds[arm]]
        return found


def _product(m: int, k: int, n: int, device: str, precision: str) -> Callable[[], Tensor]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
    out = torch.empty(m, n, device=device, dtype=dtype)
    return lambda: torch.mm(a, b, out=out)


def highest(rates: dict[str, dict[str, list[float]]], precision: str) -> list[float]:
    """FLOP/s of each round, of the shape that was fastest in it."""
    return [max(round) for round in zip(*rates[precision].values(), strict=True)]
