"""A TRACE of one arm's training step, for chrome://tracing or Perfetto, and the operations that take longest."""

from __future__ import annotations

from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks.speed import models
from benchmarks.speed.setting import Setting
from benchmarks.speed.step import Moments
from benchmarks.speed.tables import Table, label, number, share
from benchmarks.speed.training import arms

STEPS, WARM_UP, LARGEST = 3, 3, 10


def trace(file: Path, arm: str, setting: Setting) -> Table:
    """Writes the trace. ValueError for an arm that there is not."""
    name = setting.models[0]
    pair = {"ours": models.ours(name).to(setting.device), "diffusers": models.diffusers(name).to(setting.device)}
    steps = arms(name, pair, Moments(list(pair.values())), setting.pictures, setting)
    if arm not in steps:
        raise ValueError(f"--arm must be one of {'; '.join(steps)}, got {arm!r}")
    step = steps[arm]()
    for _ in range(WARM_UP):
        step()
    gpu = setting.device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]) as seen:
        for _ in range(STEPS):
            step()
    file.parent.mkdir(parents=True, exist_ok=True)
    seen.export_chrome_trace(str(file))
    own = (lambda op: op.self_device_time_total) if gpu else (lambda op: op.self_cpu_time_total)
    events = sorted(seen.key_averages(), key=own, reverse=True)
    total = sum(map(own, events))
    rows = [
        [op.key[:50], number(own(op) / 1e3 / STEPS), share(own(op) / total), f"{op.count / STEPS:g}"]
        for op in events[:LARGEST]
    ]
    title = f"{LARGEST} operations that take longest, {arm}, {label(name)}, batch {setting.pictures}"
    return Table(title, ["operation", "ms a step", "share", "calls a step"], rows, [f"Trace: {file}"])
