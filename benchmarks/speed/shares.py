"""SHARES: what a forward pass and a training step spend outside the products of blocks, which caching could save."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rounds import spread, take_turns, timed
from benchmarks.speed import models
from benchmarks.speed.machine import waiting
from benchmarks.speed.setting import Setting
from benchmarks.speed.step import Moments, training_step
from benchmarks.speed.tables import Table, label, number, share
from dit.model import DiT
from dit.model.embed import patchify, unpatchify
from dit.training.ema import Ema

FORWARD, STEP = "forward pass", "forward, backward and fused AdamW"
Arms = dict[str, Callable[[], object]]


def measure(setting: Setting) -> dict[str, Any]:
    name, batch, wait = setting.models[0], setting.pictures, waiting(setting.device)
    network = models.ours(name).eval().to(setting.device, torch.bfloat16)
    found: dict[str, dict[str, list[float]]] = {}
    with torch.inference_mode():
        for rows in (2, 2 * batch):  # of one picture with guidance, and of a batch
            setting.say(f"shares of a forward pass, {name}, {rows} rows")
            arms = {arm: timed(work, wait) for arm, work in of_forward(network, name, rows).items()}
            found[f"{rows} rows"] = take_turns(arms, setting.rounds, warm_up=2).seconds
    setting.say(f"shares of a training step, {name}, batch {batch}")
    arms = {arm: timed(work, wait) for arm, work in of_step(name, batch, setting.device).items()}
    found["step"] = take_turns(arms, setting.rounds, warm_up=2).seconds
    return {"model": name, "batch": batch, "seconds": found}


def of_forward(network: DiT, name: str, rows: int) -> Arms:
    device = str(next(network.parameters()).device)
    x, time, labels = models.random_batch(name, rows, device)
    x, time = x.to(torch.bfloat16), time.float()
    condition = torch.randn(rows, network.arguments["hidden_size"], device=device, dtype=torch.bfloat16)
    modulations = [block.modulation for block in network.blocks]
    together = nn.utils.skip_init(nn.Linear, condition.shape[1], sum(m.linear.out_features for m in modulations))
    together.to(device, torch.bfloat16)
    together.weight.copy_(torch.cat([m.linear.weight for m in modulations]))
    together.bias.copy_(torch.cat([m.linear.bias for m in modulations]))
    patches = patchify(x, network.patch_size)  # [B, N, p p C]
    side = network.image_size
    return {
        FORWARD: lambda: network(x, time, labels),
        "modulations, block by block": lambda: [m(condition) for m in modulations],
        "modulations, one product": lambda: together(nn.functional.silu(condition)).chunk(6 * len(modulations), dim=1),
        "time and label": lambda: network.time_embed(time) + network.label_embed(labels, rows),
        "pictures to patches": lambda: patchify(x, network.patch_size),
        "patches to pictures": lambda: unpatchify(patches, network.patch_size, side, side),
    }


def of_step(name: str, batch: int, device: str) -> Arms:
    network, ema = models.ours(name).to(device), Ema([0.999])
    ema.attach(network)
    averages = list(ema.averages["0.999"].values())
    step = training_step(
        network, Moments([network]).adamw(network, fused=True), models.random_batch(name, batch, device), "bf16"
    )
    other = copy.deepcopy(network)  # whose gradients stay
    for parameter in other.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = [parameter.grad for parameter in other.parameters() if parameter.grad is not None]
    moments = Moments([other])
    return {
        STEP: step,
        "AdamW, fused": moments.adamw(other, fused=True).step,
        "AdamW, all tensors at once": moments.adamw(other, fused=False, foreach=True).step,
        "AdamW, one by one": moments.adamw(other, fused=False, foreach=False).step,
        "average of the weights, all tensors at once": lambda: ema.update(other),
        "average of the weights, one by one": lambda: one_by_one(averages, other),
        "norm of the gradients": lambda: nn.utils.get_total_norm(gradients),
    }


@torch.no_grad()
def one_by_one(averages: list[Tensor], network: nn.Module) -> None:
    for average, weight in zip(averages, network.parameters(), strict=True):
        average.lerp_(weight, 1e-3)


def tables(result: dict[str, Any]) -> Iterator[Table]:
    found = result["seconds"]
    model = label(result["model"])
    for title, whole, wheres in (
        ("Shares of a forward pass, {}, eager, bf16", FORWARD, [where for where in found if where != "step"]),
        (f"Around a training step, {{}}, batch {result['batch']}, eager, bf16", STEP, ["step"]),
    ):
        rows = []
        for arm in found[wheres[0]]:
            medians = [(spread(found[where][arm]).median, spread(found[where][whole]).median) for where in wheres]
            rows.append([arm, *(cell for own, all_ in medians for cell in (number(1e3 * own), share(own / all_)))])
        heads = [head for where in wheres for head in ("ms" if where == "step" else f"{where}, ms", "share")]
        yield Table(title.format(model), ["", *heads], rows)
