"""SCALING: what our training step costs against tokens, batch and width, in bf16."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.rounds import spread, take_turns, timed
from benchmarks.speed import models
from benchmarks.speed.machine import Products, highest, waiting
from benchmarks.speed.setting import Setting
from benchmarks.speed.step import Moments, training_step
from benchmarks.speed.tables import ABOVE, Table, number, share
from dit.model import DiT

AXES: dict[str, list[dict[str, int]]] = {
    "tokens": [{"image_size": side, "batch": batch} for side, batch in ((16, 16), (32, 8), (64, 2), (128, 1))],
    "batch": [{"batch": batch} for batch in (1, 2, 4, 8, 16, 32)],
    "width": [{"hidden_size": width, "num_heads": width // 64} for width in (192, 384, 768, 1152)],
}
ON_GPU = 16  # times the pictures of a batch
QUICK = {"tokens": [{"image_size": side, "batch": 2} for side in (8, 16)]}


def measure(setting: Setting) -> dict[str, Any]:
    """One axis changes, the rest is DiT-S/2 on 32 x 32 x 4 with the batch of a CPU or 16 times as many pictures."""
    model, axes = ("tiny", QUICK) if setting.quick else ("s2", AXES)
    more = ON_GPU if setting.device == "cuda" else 1
    steps, points = {}, []
    for axis, changes in axes.items():
        for change in changes:
            point = {"axis": axis, **models.arguments(model), "batch": 8, **change}
            point["batch"] *= more
            points.append(point)
            steps[f"{axis} {len(points)}"] = timed(step_of(point, setting.device), waiting(setting.device))
    setting.say(f"scaling {model}: {len(steps)} points, {setting.rounds} rounds")
    products = Products(setting.device, model, 8 * more, ["bf16"], setting.quick)
    turns = take_turns(steps | products.arms, setting.rounds)
    found = []
    for point, arm in zip(points, steps, strict=True):
        told = {key: point[key] for key in ("axis", "image_size", "patch_size", "hidden_size", "batch")}
        found.append({**told, "flops": flops_of(point, setting.device), "seconds": turns.seconds[arm]})
    return {"model": model, "products": products.rates(turns.seconds), "points": found}


def network_of(point: dict[str, Any], device: str) -> DiT:
    keys = set(models.arguments("s2")) & set(point)
    torch.manual_seed(0)
    return models.awake(DiT(**{key: point[key] for key in keys})).to(device)


def step_of(point: dict[str, Any], device: str):
    network, batch = network_of(point, device), point["batch"]
    x = torch.randn(batch, point["channels"], point["image_size"], point["image_size"], device=device)
    time, labels = torch.arange(batch, device=device), torch.arange(batch, device=device)
    return training_step(network, Moments([network]).adamw(network, fused=True), (x, time, labels), "bf16")


def flops_of(point: dict[str, Any], device: str) -> int:
    """Of a forward pass of one picture."""
    from dit.model.count import count

    keys = set(models.arguments("s2")) & set(point)
    return round(2e9 * count({"name": "dit"} | {key: point[key] for key in keys})[1])


def tables(result: dict[str, Any]) -> Iterator[Table]:
    top, rows, notes = highest(result["products"], "bf16"), [], []
    for point in result["points"]:
        seconds = spread(point["seconds"]).median / point["batch"]
        tokens = (point["image_size"] // point["patch_size"]) ** 2
        sizes = [f"{tokens:,}", str(point["batch"]), str(point["hidden_size"])]
        work = 3 * point["flops"] * point["batch"]
        mfu = statistics.median(work / spent / rate for spent, rate in zip(point["seconds"], top, strict=True))
        rows.append([point["axis"], *sizes, f"{point['flops'] / 2e9:.2f}", number(1e3 * seconds), share(mfu)])
        if mfu > 1:
            notes.append(ABOVE.format(f"{point['axis']}, {', '.join(sizes)}"))
    columns = ["changed", "tokens", "batch", "width", "G multiply-adds", "ms a picture", "MFU"]
    yield Table("Training step of ours in bf16, eager, as one size changes", columns, rows, notes)
