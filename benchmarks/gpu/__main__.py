"""`python -m benchmarks.gpu`, or `make gpu`: all that is to be known on a GPU, in parts with a clock of their own.

Parts that are done stay done: the same command goes on where it was cut off. `--quick` tries everything on the CPU,
with tiny models, in two minutes. `--write-docs` only writes docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.gpu import page
from benchmarks.gpu.parts import Part, parts
from benchmarks.speed import machine
from dit.files import write_text

ROOT = Path(__file__).parents[2]


def main(given: list[str] | None = None) -> None:
    try:
        sys.exit(run(parser().parse_args(given)))
    except ValueError as error:
        sys.exit(f"error: {error}")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    found.add_argument("--quick", action="store_true", help="tiny models on the CPU; the figures mean nothing")
    found.add_argument("--minutes", type=float, default=12.0, help="of all parts together")
    found.add_argument("--data", type=Path, help="CIFAR-10 as a folder of train/ and test/, or a zip of one")
    found.add_argument("--only", help="parts by name, with commas, measured again if they were")
    found.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    found.add_argument("--write-docs", action="store_true", help="docs/gpu.md from what --out holds")
    return found


def run(options: argparse.Namespace) -> int:
    """The exit code: 0 if no part failed. ValueError, before anything runs, for what cannot be measured."""
    kept = kept_in(options.out)
    if options.write_docs:
        print(f"wrote {page.write(options.out, kept)}")
        return 0
    chosen = select(options)
    if options.data is not None and not options.data.exists():
        raise ValueError(f"--data must be a folder or a zip of one, got {options.data}")
    if not options.quick and not torch.cuda.is_available():
        raise ValueError("no GPU that PyTorch can use is here; --quick tries everything on the CPU")
    here = machine.describe("cpu" if options.quick else "cuda")
    if kept["machine"] not in (None, here):
        raise ValueError(f"--out {options.out} holds figures of another machine; give another folder")
    kept |= {"machine": here, "quick": options.quick}
    console, end = Console(highlight=False), time.monotonic() + 60 * options.minutes
    for name in chosen:
        # Anew for each: a later part asks for what an earlier one has found.
        part = next(each for each in parts(options.out, options.data, options.quick) if each.name == name)
        if not options.only and kept["parts"].get(name, {}).get("state") == "done":
            console.print(f"{name}: done before", style="dim")
            continue
        left = end - time.monotonic()
        if left < 10:
            console.print(f"{name}: no time left of {options.minutes:g} minutes; the same command goes on here")
            continue
        kept["parts"][name] = done = clocked(part, options.out, min(part.limit, left))
        write_text(options.out / "gpu.json", json.dumps(kept, indent=1) + "\n")
        console.print(f"{name}: {done['state']} after {done['took']:.0f} of {part.limit} s  ({options.out}/{name}.log)")
        if done["state"] == "failed":
            console.print((options.out / f"{name}.log").read_text(errors="replace")[-1500:], style="dim", markup=False)
    states = [kept["parts"].get(name, {}).get("state", "not begun") for name in chosen]
    print(f"{states.count('done')} of {len(chosen)} parts done: {options.out}/gpu.json")
    return int("failed" in states)


def kept_in(out: Path) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "gpu.json"
    return json.loads(file.read_text()) if file.exists() else {"machine": None, "quick": False, "parts": {}}


def select(options: argparse.Namespace) -> list[str]:
    known = [part.name for part in parts(options.out, options.data, options.quick)]
    asked = options.only.split(",") if options.only else known
    for name in asked:
        if name not in known:
            raise ValueError(f"--only must be some of {','.join(known)}, got {name!r}")
    return [name for name in known if name in asked]


def clocked(part: Part, out: Path, limit: float) -> dict[str, Any]:
    """What became of a part: done, failed, or cut off at its limit, with all its processes; and what it wrote."""
    begun = time.monotonic()
    with (out / f"{part.name}.log").open("wb") as log:
        process = subprocess.Popen(part.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            state = "failed" if process.wait(limit) else "done"
        except subprocess.TimeoutExpired:
            state = "cut off"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    written = part.result is not None and part.result.exists()
    return {
        "what": part.what,
        "command": ["python", *part.command[1:]],
        "state": state,
        "took": time.monotonic() - begun,
        "limit": part.limit,
        "result": json.loads(part.result.read_text()) if part.result is not None and written else None,
        "said": (out / f"{part.name}.log").read_text(errors="replace").splitlines()[-1:],
    }


if __name__ == "__main__":
    main()
