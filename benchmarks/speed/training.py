"""TRAINING: a step of ours and of diffusers' transformer, at equal work and equal precision, arm beside arm."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.rounds import Arm, take_turns, timed
from benchmarks.speed import models
from benchmarks.speed.machine import Products, waiting
from benchmarks.speed.setting import Setting
from benchmarks.speed.step import Moments, check_finite, training_step

WORK_MAY_DIFFER = 0.02  # a share of the FLOPs
LARGEST = 1024  # pictures of a batch that are tried
TRIED = (16, 48)  # pictures, of which the memory of other batches follows
FILLED = 0.85  # of a GPU's memory
DEEP = 12  # blocks: of deeper networks diffusers' is compiled by block alone, which takes a tenth of the time
COMPILES = "; compiling first, which takes minutes"

Steps = dict[str, Callable[[], Callable[[], None]]]  # by arm, what makes its step


def base(arms: dict[str, Any]) -> str:
    """The arm that others are told as a ratio of: diffusers' eager step."""
    return "diffusers, fp32" if "diffusers, fp32" in arms else "diffusers, bf16"


def measure(setting: Setting) -> dict[str, Any]:
    """Of every model: work, seconds of each arm in each round beside plain matrix products, and on a GPU its memory."""
    return {"runs": [of_model(name, setting) for name in setting.models]}


def of_model(name: str, setting: Setting) -> dict[str, Any]:
    torch.compiler.reset()  # what is compiled for one shape must not make the next one a variable
    gc.collect()  # and what it held on to is free
    with torch.device(setting.device):
        pair = {"ours": models.ours(name), "diffusers": models.diffusers(name)}
    work = {who: models.forward_flops(network.eval(), name) for who, network in pair.items()}
    low, high = sorted(work.values())
    assert high <= low * (1 + WORK_MAY_DIFFER), f"{name}: the two do not do the same work: {work}"
    moments = Moments(list(pair.values()))
    found: dict[str, Any] = {"model": name, "flops": work, "tokens": models.tokens(name)}
    found["parameters"] = {who: models.parameters(network) for who, network in pair.items()}
    batch = setting.pictures
    if setting.device == "cuda" and setting.batch is None:
        found["memory_by_batch"] = memory_by_batch(name, pair, moments)
        batch = filling(found["memory_by_batch"], name)
    steps = {arm: make() for arm, make in arms(name, pair, moments, batch, setting).items()}
    setting.say(
        f"training {name}, batch {batch}: {len(steps)} arms, {setting.rounds} rounds{COMPILES * (not setting.quick)}"
    )
    products = Products(setting.device, name, batch, setting.precisions, setting.quick)
    clocks: dict[str, Arm] = {arm: timed(step, waiting(setting.device)) for arm, step in steps.items()}
    turns = take_turns(clocks | products.arms, setting.rounds, warm_up=2)
    for network in pair.values():
        check_finite(network)
    if setting.device == "cuda":
        found["memory_gib"] = {arm: memory(step, pair[arm.split(",")[0]]) for arm, step in steps.items()}
    first, seconds = ({arm: told[arm] for arm in steps} for told in (turns.first, turns.seconds))
    return {**found, "batch": batch, "first": first, "seconds": seconds, "products": products.rates(turns.seconds)}


def arms(name: str, pair: dict[str, nn.Module], moments: Moments, batch: int, setting: Setting) -> Steps:
    """What makes the step of each arm: eager and compiled, with the fused AdamW; diffusers also with the AdamW that
    PyTorch takes if nothing is said, as its users do, and compiled in both ways."""
    pictures = models.random_batch(name, batch, setting.device)
    found: Steps = {}

    def add(arm: str, network: nn.Module, precision: str, **adamw: Any) -> None:
        found[arm] = lambda: training_step(network, moments.adamw(network, **adamw), pictures, precision)

    # The largest first, so that a batch that does not fit is noticed early.
    for precision in setting.precisions:
        for who, network in reversed(pair.items()):
            add(f"{who}, {precision}", network, precision, fused=True)
    add("diffusers, bf16, default AdamW", pair["diffusers"], "bf16")
    if not setting.quick:
        ways = {
            "ours, {}, compiled": models.compiled(pair["ours"], whole=False),
            "diffusers, {}, compiled by block": models.compiled(pair["diffusers"], whole=False),
        }
        if setting.device == "cpu" or models.arguments(name)["depth"] <= DEEP:
            ways["diffusers, {}, compiled whole"] = models.compiled(pair["diffusers"], whole=True)
        for precision in setting.precisions:
            for arm, network in ways.items():
                add(arm.format(precision), network, precision, fused=True)
    return found


def memory(step: Callable[[], None], network: nn.Module) -> float:
    """GiB on the GPU at most: what the step takes beside what lay there before, and weights and moments of its own."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    own = 3 * sum(p.numel() * p.element_size() for p in network.parameters())
    return (torch.cuda.max_memory_allocated() - before + own) / 2**30


def memory_by_batch(name: str, pair: dict[str, nn.Module], moments: Moments) -> dict[str, dict[str, float]]:
    """GiB of each eager arm in bf16, of two small batches."""
    found: dict[str, dict[str, float]] = {}
    for batch in TRIED:
        pictures, eager = models.random_batch(name, batch, "cuda"), {}
        for who, network in pair.items():
            step = training_step(network, moments.adamw(network, fused=True), pictures, "bf16")
            step()
            eager[f"{who}, bf16"] = memory(step, network)
        found[str(batch)] = eager
    for network in pair.values():
        network.zero_grad()
    torch.cuda.empty_cache()
    return found


def filling(found: dict[str, dict[str, float]], name: str) -> int:
    """Pictures of the batch that fills the GPU in every arm, a multiple of 32: memory grows with them evenly."""
    small, large = (max(found[str(batch)].values()) for batch in TRIED)
    each = (large - small) / (TRIED[1] - TRIED[0])
    free = FILLED * torch.cuda.get_device_properties(0).total_memory / 2**30 - torch.cuda.memory_allocated() / 2**30
    batch = min(LARGEST, int((free - small) / each + TRIED[0]) // 32 * 32)
    if batch < 32:
        raise ValueError(f"--models {name} does not fit on this GPU with a batch of 32; give a smaller --batch")
    return batch
