"""A callback for train.py: after every few of its steps as many of a bare loop, and a clock on both."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from torch import nn

from benchmarks.speed import losses
from benchmarks.speed.step import autocast
from dit.diffusion import Denoiser
from dit.model import DiT

WAITING = "[_TrainingEpochLoop].train_dataloader_next"  # Lightning's name for it
HOOKS = 8  # that are told, those that took longest
INSIDE = ("run_", "[Strategy]", "optimizer_step", "forward", "training_step", "backward")  # hold others, or the step


class Stopwatch(Profiler):
    """Seconds of each action since the last `clear`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[str, float] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def start(self, action_name: str) -> None:
        self.begun[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name in self.begun:
            self.seconds[action_name] += time.perf_counter() - self.begun.pop(action_name)

    def clear(self) -> None:
        self.seconds.clear()


class AgainstBare(Callback):
    """Writes to `out`, as JSON, the seconds a step of train.py and of the bare loop, by blocks, for `steps` steps after
    `warm_up`; then where the time of the last `traced` steps goes.

    A step of train.py is all that happens from the beginning of one batch to the beginning of the next.
    """

    def __init__(self, out: str, block: int, warm_up: int, steps: int, traced: int):
        assert warm_up % block == steps % block == 0
        assert traced < block
        self.out, self.block, self.warm_up, self.steps, self.traced = Path(out), block, warm_up, steps, traced
        self.whole: list[float] = []
        self.bare: list[float] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.profiler = self.watch = Stopwatch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.step = bare_step(pl_module, batch)
        if batch_idx == self.warm_up + self.steps + self.traced:
            self._write(pl_module)
            raise SystemExit(0)  # without a checkpoint, which of XL is 11 GB
        if batch_idx % self.block:
            return
        now = self._now(pl_module)
        if batch_idx > self.warm_up:
            self.whole.append((now - self.begun) / self.block)
            self._keep(batch_idx - self.warm_up)
        for _ in range(self.block):
            self.step()
        if batch_idx > self.warm_up:
            self.bare.append((self._now(pl_module) - now) / self.block)
        elif batch_idx == self.warm_up:
            self.watch.clear()
        if batch_idx == self.warm_up + self.steps:
            self.seen = losses.profiler(pl_module.device.type)
            self.seen.start()
        self.begun = self._now(pl_module)

    def _now(self, module: LightningModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _keep(self, steps: int) -> None:
        self.waited = self.watch.seconds[WAITING]
        hooks = [
            (name, seconds / steps)
            for name, seconds in self.watch.seconds.items()
            if not any(part in name for part in INSIDE) and "AgainstBare" not in name
        ]
        self.hooks = sorted(hooks, key=lambda hook: -hook[1])[:HOOKS]

    def _write(self, pl_module: LightningModule) -> None:
        wall = self._now(pl_module) - self.begun
        self.seen.stop()
        result = {
            "trace": losses.by_kind(self.seen, pl_module.device.type, wall, self.traced),
            "seconds": {"train.py": self.whole, "bare": self.bare},
            "waiting": self.waited,
            "watched": sum(self.whole) * self.block,
            "hooks": self.hooks,
        }
        self.out.write_text(json.dumps(result))


def bare_step(module: Any, pictures: Any):
    """What anybody would write: noise and times, the path, the network, the loss and the optimiser, on one batch."""
    trained: DiT = module.network
    network = DiT(**trained.arguments, attention=trained.blocks[0].attention.backend).to(module.device)
    if module.compile_backend is not None:
        for block in network.blocks:  # not `compile_in_place`, which drops what the run has compiled
            block.compile(backend=module.compile_backend, fullgraph=True)
    path = module.denoiser.path
    denoiser = Denoiser(network, path, module.denoiser.kind, module.denoiser.null_label)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    precision = "bf16" if "bf16" in str(module.trainer.precision) else "fp32"
    x0, labels = pictures.images.clone(), pictures.labels.clone()

    def step() -> None:
        optimizer.zero_grad()
        t, eps = torch.rand(len(x0), device=x0.device), torch.randn_like(x0)
        with autocast(x0.device.type, precision):
            out = denoiser(path.interpolate(x0, eps, t), t, labels).velocity
        nn.functional.mse_loss(out.float(), eps - x0).backward()
        optimizer.step()

    return step
