"""SAMPLING: our loop and diffusers' DiTPipeline, both DDIM with classifier-free guidance and equal evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rounds import speed_up, spread, take_turns, timed
from benchmarks.speed import models
from benchmarks.speed.machine import waiting
from benchmarks.speed.setting import Setting
from benchmarks.speed.tables import Table, against, label, number, quartiles, times
from benchmarks.speed.training import DEEP, base
from dit.diffusion import Denoiser, DiscreteVP
from dit.model.compiling import GRAPHS, compile_whole
from dit.solvers import CFG, DDIM, Interval, make_grid, sample

SCALE = 4.0
INTERVAL = (-3.0, 3.0)  # log-SNR
Draw = Callable[[], Tensor]


def measure(setting: Setting) -> dict[str, Any]:
    return {"runs": [of_model(setting.models[0], setting)]}


def of_model(name: str, setting: Setting) -> dict[str, Any]:
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()  # it warns of modules to keep in float32, and lists none
    torch.compiler.reset()
    steps, batch = (2, 2) if setting.quick else (10, setting.pictures if setting.device == "cuda" else 4)
    labels = models.random_batch(name, batch, setting.device)[2]
    draws: dict[str, Draw] = {}
    work: dict[str, dict[str, float]] = {}
    for precision in setting.precisions:
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        with torch.device(setting.device):
            ours, theirs = (make(name).eval().to(dtype) for make in (models.ours, models.diffusers))
        ways = {"batched": (None, False), "sequential": (batch, False), "interval": (None, True)}
        for way, (max_rows, interval) in ways.items():
            draws[f"ours, {precision}, {way}"] = partial(draw, ours, labels, steps, max_rows, interval)
        draws[f"diffusers, {precision}"] = pipeline(theirs, labels, steps)
        for arm in [arm for arm in draws if precision in arm]:
            work[arm] = counted(draws[arm], theirs if arm.startswith("diffusers") else ours, batch)
        if precision == "bf16" and not setting.quick:
            fast = models.compiled(ours, whole=False)
            for way in ("batched", "interval"):
                max_rows, interval = ways[way]
                draws[arm := f"ours, bf16, compiled, {way}"] = partial(draw, fast, labels, steps, max_rows, interval)
                work[arm] = work[f"ours, bf16, {way}"]
            shallow = setting.device == "cpu" or models.arguments(name)["depth"] <= DEEP
            if setting.device == "cuda" and shallow:
                graphs = models.twin(ours)
                compile_whole(graphs, "inductor", GRAPHS)
                for way in ("batched", "interval"):
                    max_rows, interval = ways[way]
                    draws[arm := f"ours, bf16, graphs, {way}"] = partial(
                        draw, graphs, labels, steps, max_rows, interval
                    )
                    work[arm] = work[f"ours, bf16, {way}"]
            for how, whole in (("by block", False), ("whole", True))[: 1 + shallow]:
                draws[arm := f"diffusers, bf16, compiled {how}"] = pipeline(
                    models.compiled(theirs, whole), labels, steps
                )
                work[arm] = work["diffusers, bf16"]
    for arm, found in work.items():
        if "interval" not in arm:
            assert found["rows"] == 2 * steps, f"{arm} did not do two passes in each of {steps} steps: {found}"
    setting.say(f"sampling {name}, batch {batch}: {len(draws)} arms, {setting.rounds} rounds")
    turns = take_turns({arm: timed(make, waiting(setting.device)) for arm, make in draws.items()}, setting.rounds)
    settings = {"model": name, "batch": batch, "steps": steps, "scale": SCALE, "interval": INTERVAL}
    return {**settings, "work": work, "first": turns.first, "seconds": turns.seconds}


def draw(network: nn.Module, labels: Tensor, steps: int, max_rows: int | None, interval: bool) -> Tensor:
    """Pictures [B, C, H, W] by ours."""
    denoiser = Denoiser(network, PATH, "eps", network.null_label)
    noise = torch.randn(len(labels), network.channels, network.image_size, network.image_size, device=labels.device)
    guidance = Interval(CFG(SCALE), INTERVAL) if interval else CFG(SCALE)
    grid = make_grid(PATH, steps, "leading")
    return sample(denoiser, noise, labels, grid=grid, solver=DDIM(0.0), guidance=guidance, max_rows=max_rows).x0


PATH = DiscreteVP.linear()


class NoDecoder:
    """Stands where DiTPipeline has its autoencoder, and costs nothing: only the transformer is compared."""

    config = SimpleNamespace(scaling_factor=1.0)

    def decode(self, latents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latents)


def pipeline(network: nn.Module, labels: Tensor, steps: int) -> Draw:
    """Pictures [B, C, H, W] by diffusers, with the DDIM that DiT's published pipelines take."""
    from diffusers import DDIMScheduler, DiTPipeline

    pipe = DiTPipeline(network, NoDecoder(), DDIMScheduler(clip_sample=False)).to(labels.device)
    pipe.set_progress_bar_config(disable=True)
    classes = labels.tolist()
    return lambda: pipe(classes, SCALE, num_inference_steps=steps, output_type="pt").images


def counted(make: Draw, network: nn.Module, batch: int) -> dict[str, float]:
    """Calls of the network and its rows a picture, seen from outside; AssertionError if a picture is no number."""
    rows: list[int] = []

    def see(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        rows.append(len(given[0]))

    hook = network.register_forward_pre_hook(see)
    try:
        assert bool(make().isfinite().all()), "pictures are not finite"
    finally:
        hook.remove()
    return {"calls": len(rows), "rows": sum(rows) / batch}


def tables(result: dict[str, Any]) -> Iterator[Table]:
    for run in result["runs"]:
        rows, first = [], base(run["seconds"])
        for arm, seconds in run["seconds"].items():
            median, work = spread(seconds).median, run["work"][arm]
            ratio = speed_up(seconds, run["seconds"][first])
            cells = [arm, number(run["batch"] / median), times(ratio), quartiles(ratio)]
            rows.append((median, [*cells, number(work["calls"] / median), f"{work['rows']:g}"]))
        low, high = run["interval"]
        title = f"Sampling, {label(run['model'])}, {run['steps']} steps, batch {run['batch']}; ratio over {first}"
        yield Table(
            title,
            ["", "images/s", "ratio", "quartiles", "calls/s", "rows"],
            [cells for _, cells in sorted(rows, key=lambda row: row[0])],
            [
                f"DDIM, guidance scale {run['scale']:g}; rows: network rows a picture. sequential: conditional and "
                f"unconditional rows in calls of their own; interval: guided for log-SNR in [{low:g}, {high:g}) only. "
                "bf16: the weights are bfloat16."
            ],
        )
        yield against(f"Ours over DiTPipeline at equal evaluations, {label(run['model'])}", run["seconds"], COMPARED)


COMPARED = [
    ("ours, fp32, batched", ["diffusers, fp32"]),
    ("ours, bf16, batched", ["diffusers, bf16"]),
    ("ours, bf16, compiled, batched", ["diffusers, bf16, compiled by block", "diffusers, bf16, compiled whole"]),
    ("ours, bf16, compiled, batched", ["diffusers, bf16"]),  # DiTPipeline as it comes
    ("ours, bf16, graphs, batched", ["ours, bf16, compiled, batched"]),
    ("ours, bf16, graphs, batched", ["diffusers, bf16, compiled by block", "diffusers, bf16, compiled whole"]),
]
