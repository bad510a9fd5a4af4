"""Speed beside diffusers: `python -m benchmarks.speed` measures, prints tables and keeps the figures as JSON.

Parts that were measured before stay in the file. `--write-docs FILE ...` only writes docs/benchmarks.md from it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.speed import (
    loop,
    machine,
    memory,
    models,
    page,
    sampling,
    scaling,
    shares,
    startup,
    tables,
    trace,
    training,
    training_tables,
    ways,
)
from benchmarks.speed.setting import Setting

PARTS = {
    "training": (training.measure, training_tables.tables),
    "loop": (loop.measure, loop.tables),
    "sampling": (sampling.measure, sampling.tables),
    "startup": (startup.measure, startup.tables),
    "memory": (memory.measure, memory.tables),
    "ways": (ways.measure, ways.tables),
    "shares": (shares.measure, shares.tables),
    "scaling": (scaling.measure, scaling.tables),
}
MODELS = {"cpu": "s2,b4,xl8", "cuda": "s2,b2,l2,xl2"}


def main(given: list[str] | None = None) -> None:
    try:
        run(parser().parse_args(given))
    except ValueError as error:
        sys.exit(f"error: {error}")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    found.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    found.add_argument(
        "--models", help=f"by name, with commas; all of them train, the other parts take the first: {MODELS}"
    )
    found.add_argument("--batch", type=int, help="pictures of a step; default: 8, on a GPU the largest that fits")
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--parts", default=",".join(PARTS), help="with commas; default: all (memory only on a CPU)")
    found.add_argument("--quick", action="store_true", help="a tiny model, nothing compiled: shows that it runs")
    found.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder of cpu.json or cuda.json")
    found.add_argument("--trace", type=Path, metavar="FILE", help="measure nothing: a Chrome trace of a step of --arm")
    found.add_argument("--arm", default="ours, bf16", help="what --trace looks at, an arm of the training step")
    found.add_argument("--write-docs", type=Path, nargs="+", metavar="JSON", help="docs/benchmarks.md from these files")
    return found


def run(options: argparse.Namespace) -> None:
    """ValueError for what cannot be measured, before anything is."""
    if options.write_docs:
        print(f"wrote {page.write(options.write_docs)}")
        return
    parts, console = chosen(options), Console(highlight=False)
    begun = time.monotonic()
    setting = Setting(
        device=options.device,
        models=[
            name for name in (options.models or "tiny" * options.quick or MODELS[options.device]).split(",") if name
        ],
        batch=options.batch or (2 if options.quick else None),
        rounds=2 if options.quick else options.rounds,
        quick=options.quick,
        folder=options.out,
        say=lambda line: console.print(f"{time.monotonic() - begun:5.0f} s  {line}", style="dim"),
    )
    for name in setting.models:
        models.arguments(name)
    if options.device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as train.py
    if options.trace:
        tables.show(trace.trace(options.trace, options.arm, setting), console)
        return
    file = options.out / f"{options.device}.json"
    kept = opened(file, machine.describe(options.device))
    for part in parts:
        measure, make_tables = PARTS[part]
        started = time.monotonic()
        result = measure(setting)
        stamp = {"date": str(date.today()), "command": said(), "took": round(time.monotonic() - started)}
        kept["parts"][part] = stamp | {"rounds": setting.rounds, "quick": setting.quick} | result
        file.write_text(json.dumps(kept, indent=1) + "\n")  # after each part: a later one may fail
        for table in make_tables(kept["parts"][part]):
            tables.show(table, console)
    console.print(f"\n{file}")


def chosen(options: argparse.Namespace) -> list[str]:
    """The parts asked for, in the order of PARTS."""
    names = options.parts.split(",")
    for name in names:
        if name not in PARTS:
            raise ValueError(f"--parts must be some of {','.join(PARTS)}, got {name!r}")
    for key in ("batch", "rounds"):
        value = getattr(options, key)
        if value is not None and value < 1:
            raise ValueError(f"--{key} must be a whole number of at least 1, got {value}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a GPU that PyTorch can use, and there is none; give --device cpu")
    if options.device == "cuda" and "memory" in names:
        if options.parts != ",".join(PARTS):
            raise ValueError("--parts memory is of --device cpu; on a GPU training tells the memory of each arm")
        names.remove("memory")
    return [name for name in PARTS if name in names]


def opened(file: Path, here: dict[str, Any]) -> dict[str, Any]:
    """What earlier runs on this machine have left in the file. ValueError if another machine has."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        return {"machine": here, "parts": {}}
    kept = json.loads(file.read_text())
    differ = [key for key in here if kept["machine"].get(key) != here[key]]
    if differ:
        was, now = (", ".join(f"{key} {told.get(key)}" for key in differ) for told in (kept["machine"], here))
        raise ValueError(f"--out {file.parent} holds figures of {was}, and this is {now}; give another folder")
    return kept


def said() -> str:
    return shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])


if __name__ == "__main__":
    main()
