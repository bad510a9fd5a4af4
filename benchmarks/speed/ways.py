"""WAYS to compute our training step: attention kernels, and activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.rounds import speed_up, spread, take_turns, timed
from benchmarks.speed import models
from benchmarks.speed.machine import waiting
from benchmarks.speed.setting import Setting
from benchmarks.speed.step import Moments, training_step
from benchmarks.speed.tables import Table, label, number, quartiles, times

BASE = "sdpa"
NETWORKS: dict[str, dict[str, Any]] = {
    "sdpa": {},
    "reference attention": {"attention": "reference"},
    "activation checkpointing": {"activation_checkpointing": 1},
}
KERNELS = {
    "sdpa, flash": SDPBackend.FLASH_ATTENTION,
    "sdpa, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "sdpa, efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa, math": SDPBackend.MATH,
}


def measure(setting: Setting) -> dict[str, Any]:
    name = setting.models[0]
    batch = models.random_batch(name, setting.pictures, setting.device)
    ways = {way: (changes, None) for way, changes in NETWORKS.items()}
    if setting.device == "cuda":
        ways |= {way: ({}, kernel) for way, kernel in KERNELS.items()}
        ways |= {name: ({"attention": name}, None) for name in ("flash_attn", "xformers") if find_spec(name)}
    # Kernels of one network share it and its moments, which are large.
    with torch.device(setting.device):
        networks = {str(changes): models.ours(name, **changes) for changes, _ in ways.values()}
    moments, arms = Moments(list(networks.values())), {}
    for way, (changes, kernel) in ways.items():
        network = networks[str(changes)]
        step = training_step(network, moments.adamw(network, fused=True), batch, "bf16")
        arms[way] = timed(on_kernel(step, kernel), waiting(setting.device))
    setting.say(f"ways {name}, batch {setting.pictures}: {len(arms)} arms, {setting.rounds} rounds")
    turns = take_turns(arms, setting.rounds, warm_up=2)
    return {"model": name, "batch": setting.pictures, "seconds": turns.seconds}


def on_kernel(step: Callable[[], None], kernel: SDPBackend | None) -> Callable[[], None]:
    def chosen() -> None:
        with nullcontext() if kernel is None else sdpa_kernel(kernel):
            step()

    return chosen


def tables(result: dict[str, Any]) -> Iterator[Table]:
    rows = []
    for way, seconds in result["seconds"].items():
        ratio = speed_up(seconds, result["seconds"][BASE])
        rows.append([way, number(result["batch"] / spread(seconds).median), times(ratio), quartiles(ratio)])
    title = f"Ways to compute a step of ours in bf16, eager, {label(result['model'])}, batch {result['batch']}"
    yield Table(title, ["", "images/s", "ratio", "quartiles"], rows)
