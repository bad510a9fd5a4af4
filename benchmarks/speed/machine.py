"""The machine: what it is, how much memory a process took, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.rounds import take_turns, timed
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


def ceiling(device: str, models: list[str], batch: int, quick: bool, rounds: int = 5) -> dict[str, dict[str, float]]:
    """By precision and shape of the product "M x K x N", FLOP/s: of squares, and of the first layer of each MLP."""
    squares = (256,) if quick else (2048, 4096, 8192) if device == "cuda" else (2048, 3072)
    shapes = [(side, side, side) for side in squares]
    for name in models:
        width = arguments(name)["hidden_size"]
        shapes.append((batch * tokens(name), width, 4 * width))
    found: dict[str, dict[str, float]] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        arms = {}
        for m, k, n in shapes:
            a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
            out = torch.empty(m, n, device=device, dtype=dtype)
            product = lambda a=a, b=b, out=out: torch.mm(a, b, out=out)  # noqa: E731
            arms[f"{m} x {k} x {n}"] = timed(product, waiting(device))
        turns = take_turns(arms, rounds, warm_up=2)
        found[precision] = {
            f"{m} x {k} x {n}": 2 * m * k * n / statistics.median(turns.seconds[f"{m} x {k} x {n}"])
            for m, k, n in shapes
        }
    return found


def highest(rates: dict[str, dict[str, float]], precision: str) -> float:
    return max(rates[precision].values())
