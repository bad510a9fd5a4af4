"""The training step's figures as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.rounds import speed_up, spread
from benchmarks.speed.machine import highest
from benchmarks.speed.tables import ABOVE, Table, against, label, number, quartiles, share, times
from benchmarks.speed.training import base


def tables(result: dict[str, Any]) -> Iterator[Table]:
    for run in result["runs"]:
        yield arms(run)
        yield verdict(run)
        if "memory_by_batch" in run:
            yield by_batch(run)
        yield products(run)


def precision_of(arm: str) -> str:
    return arm.split(", ")[1]


def mfu(run: dict[str, Any], arm: str) -> float:
    """A share of what a plain product did in the same round, at the median; a forward pass and twice that for the
    gradients."""
    work, top = 3 * run["flops"]["ours"] * run["batch"], highest(run["products"], precision_of(arm))
    return statistics.median(work / seconds / rate for seconds, rate in zip(run["seconds"][arm], top, strict=True))


def arms(run: dict[str, Any]) -> Table:
    """Fastest first."""
    memory, rows, notes = run.get("memory_gib", {}), [], []
    for arm, seconds in run["seconds"].items():
        median, used = spread(seconds).median, mfu(run, arm)
        ratio = speed_up(seconds, run["seconds"][base(run["seconds"])])
        cells = [arm, number(run["batch"] / median), times(ratio), quartiles(ratio), share(used)]
        cells += [f"{run['first'][arm]:.1f}"] + ([f"{memory[arm]:.1f}"] if memory else [])
        rows.append((median, cells))
        if used > 1:
            notes.append(ABOVE.format(arm))
    columns = ["", "images/s", "ratio", "quartiles", "MFU", "first, s"] + (["GiB"] if memory else [])
    flops, parameters = run["flops"], run["parameters"]
    work = f"{run['tokens']} tokens, {flops['ours'] / 2e9:.2f} G multiply-adds a picture forward"
    note = (
        f"{work} (diffusers {flops['diffusers'] / 2e9:.2f}); {parameters['ours'] / 1e6:.1f} M parameters "
        f"(diffusers {parameters['diffusers'] / 1e6:.1f}: it embeds time and label anew in every block). "
        "first: the first step, which compiles."
    )
    title = f"Training step, {label(run['model'])}, batch {run['batch']}; ratio: images/s over {base(run['seconds'])}"
    return Table(title, columns, [cells for _, cells in sorted(rows, key=lambda row: row[0])], [note, *notes])


def verdict(run: dict[str, Any]) -> Table:
    """Like with like, and the fastest of ours over the base."""
    seconds = run["seconds"]
    fastest = min((arm for arm in seconds if arm.startswith("ours")), key=lambda arm: spread(seconds[arm]).median)
    compared = [*COMPARED, (fastest, [base(seconds)])]
    return against(f"Ours over diffusers, {label(run['model'])}", seconds, compared)


def _peers(precision: str) -> list[str]:
    return [f"diffusers, {precision}, compiled {how}" for how in ("by block", "whole")]


COMPARED = [
    ("ours, fp32", ["diffusers, fp32"]),
    ("ours, bf16", ["diffusers, bf16"]),
    ("ours, fp32, compiled", _peers("fp32")),
    ("ours, bf16, compiled", _peers("bf16")),
]


def by_batch(run: dict[str, Any]) -> Table:
    found = run["memory_by_batch"]
    columns = ["batch", *next(iter(found.values()))]
    rows = [[batch, *(f"{gib:.1f}" for gib in arms.values())] for batch, arms in found.items()]
    return Table(f"GiB against batch, eager, {label(run['model'])}", columns, rows)


def products(run: dict[str, Any]) -> Table:
    rates = run["products"]
    shapes = list(next(iter(rates.values())))
    rows = [
        [shape, *(number(statistics.median(rates[precision][shape]) / 1e9) for precision in rates)] for shape in shapes
    ]
    note = "Measured in every round, beside the arms; the fastest of a round is the ceiling that MFU is a share of."
    return Table("Matrix products, GFLOP/s", ["M x K x N", *rates], rows, [note])
