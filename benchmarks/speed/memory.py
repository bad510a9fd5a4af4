"""MEMORY of a training step on a CPU: each arm in a process of its own, whose peak the kernel keeps account of."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import models
from benchmarks.speed.setting import Setting
from benchmarks.speed.step import Moments, training_step
from benchmarks.speed.tables import Table, label

ARMS = {
    "ours, fp32": ("fp32", {}),
    "ours, bf16": ("bf16", {}),
    "ours, bf16, activation checkpointing": ("bf16", {"activation_checkpointing": 1}),
    "diffusers, fp32": ("fp32", None),
    "diffusers, bf16": ("bf16", None),
}


def measure(setting: Setting) -> dict[str, Any]:
    name, found = setting.models[0], {}
    if setting.device == "cuda":
        raise ValueError("--parts memory is for --device cpu; on a GPU the training part tells the memory of each arm")
    setting.say(f"memory {name}, batch {setting.pictures}: {len(ARMS)} processes")
    for arm in ARMS:
        command = [sys.executable, "-m", "benchmarks.speed.memory", name, str(setting.pictures), arm]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        found[arm] = json.loads(done.stdout.splitlines()[-1])
    return {"model": name, "batch": setting.pictures, "gib": found}


def peak(name: str, batch: int, arm: str) -> float:
    """GiB that three steps took at most, beside what the process had before the network was built."""
    precision, changes = ARMS[arm]
    pictures = models.random_batch(name, batch, "cpu")
    if changes is None:
        import diffusers  # noqa: F401  before the first look
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    network = models.diffusers(name) if changes is None else models.ours(name, **changes)
    step = training_step(network, Moments([network]).adamw(network, fused=True), pictures, precision)
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**30  # Linux tells KiB


def tables(result: dict[str, Any]) -> Iterator[Table]:
    rows = [[arm, f"{gib:.2f}"] for arm, gib in result["gib"].items()]
    note = (
        "Weights, gradients, moments and activations: the peak less what the process had before it built the network."
    )
    yield Table(f"Memory of training, {label(result['model'])}, batch {result['batch']}", ["", "GiB"], rows, [note])


if __name__ == "__main__":
    torch.manual_seed(0)
    print(peak(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
