"""A RUN of train.py that is killed in the middle, resumed and scored while it trains: equal to the bit, or by how much.

The first life is killed with SIGKILL after its second checkpoint. The second begins with the first checkpoint and comes
to the second again: the two files are compared, tensor by tensor.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.checkpoint import LAST, PREVIOUS

ROOT = Path(__file__).parents[2]
CIFAR = [
    *("experiment=cifar10", "data=folder", "data.image_size=32", "data.batch_size=256", "data.storage=device"),
    *("compile=inductor", "metrics=online", "callbacks.metrics.every_n_steps=1000", "callbacks.metrics.images=2000"),
    *("ema.decays=[0.999]", "lr_schedule.warmup=200", "callbacks.preview.every_n_steps=1000", "validate_every=1000"),
    *("callbacks.checkpoint.every_n_steps=500", "trainer.max_steps=1000000"),
]
DIGITS = [
    *("experiment=digits", "metrics=online", "callbacks.metrics.every_n_steps=20", "callbacks.metrics.images=32"),
    *("callbacks.checkpoint.every_n_steps=10", "callbacks.preview.every_n_steps=20", "validate_every=20", "steps=2"),
    *("trainer.log_every_n_steps=5", "callbacks.preview.classes=2", "trainer.max_steps=1000000"),
]
POLL = 0.05  # seconds


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.gpu.run", description=__doc__)
    found.add_argument("--out", type=Path, required=True, help="folder; what is there is replaced")
    found.add_argument("--data", type=Path, help="CIFAR-10 as a folder of train/ and test/, or a zip of one")
    found.add_argument("--seconds", type=float, default=20.0, help="of both lives together, start-up included")
    found.add_argument("--quick", action="store_true", help="the digits of scikit-learn, on whatever device is there")
    return found


def main() -> None:
    given = parser().parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    keys = DIGITS
    if given.data and not given.quick:
        keys = [*CIFAR, f"data.root={folder_of(given.data, given.out)}"]
    told = two_lives(given.out, keys, given.seconds)
    (given.out / "run.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["resumed"], indent=1))


def folder_of(data: Path, out: Path) -> Path:
    if data.is_dir():
        return data.resolve()
    with zipfile.ZipFile(data) as packed:
        packed.extractall(out / "pictures")
    return (out / "pictures").resolve()


def two_lives(out: Path, keys: list[str], seconds: float) -> dict[str, Any]:
    begun, run = time.monotonic(), out / "life"
    command = [sys.executable, "train.py", *keys, f"hydra.run.dir={run.resolve()}"]
    checkpoints, first, second = run / "checkpoints", out / "first.ckpt", out / "second.ckpt"
    last, previous = checkpoints / LAST, checkpoints / PREVIOUS

    with (out / "train.log").open("wb") as log:
        life = start(command, log)
        wait_for(lambda: last.exists() and previous.exists(), life)
        os.killpg(life.pid, signal.SIGKILL)
        life.wait()
        killed = time.monotonic() - begun
        last.replace(first)
        previous.replace(last)
        step = step_of(last)

        life = start(command, log)
        wait_for(lambda: previous.exists() and last.exists(), life)
        shutil.copyfile(last, second)
        while time.monotonic() < begun + seconds and life.poll() is None:
            time.sleep(POLL)
        life.send_signal(signal.SIGTERM)
        life.wait()
    sheets = sorted((run / "previews").glob("step_*.png"))
    shutil.copyfile(sheets[-1], out / "sheet.png")
    scores = json.loads((run / "scores.json").read_text()) if (run / "scores.json").exists() else {"rows": []}
    compared = {"from_step": step, "to_step": step_of(second), **differences(first, second)}
    return {
        "command": ["train.py", *keys],
        "killed_after": killed,
        "exit_code": life.returncode,
        "resumed": compared,
        "steps": step_of(last),
        "images_per_second": rate(run),
        "losses": column(run, "train/loss"),
        "scores": scores["rows"],
    }


def start(command: list[str], log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def wait_for(done: Any, life: subprocess.Popen[bytes]) -> None:
    """RuntimeError if the run ends before."""
    while not done():
        if life.poll() is not None:
            raise RuntimeError(f"train.py ended with {life.returncode} before its second checkpoint; see train.log")
        time.sleep(POLL)


def step_of(file: Path) -> int:
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)["global_step"]


def differences(first: Path, second: Path) -> dict[str, Any]:
    """Of weights, averages and the optimiser: tensors, those that differ, and the largest difference as a share of the
    tensor's largest value."""
    ours, theirs = (
        dict(
            tensors(torch.load(file, map_location="cpu", weights_only=True), ("state_dict", "ema", "optimizer_states"))
        )
        for file in (first, second)
    )
    assert ours.keys() == theirs.keys()
    apart = {name: relative(ours[name], theirs[name]) for name in ours if not torch.equal(ours[name], theirs[name])}
    return {"tensors": len(ours), "differ": len(apart), "largest": max(apart.values(), default=0.0)}


def relative(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max() / one.double().abs().max().clamp(min=1e-30))


def tensors(value: Any, keys: Any = (), name: str = ""):
    """All in a nest, by name; of a mapping at the top only `keys`."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key in keys or value:
            yield from tensors(value[key], (), f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from tensors(item, (), f"{name}/{place}")


def column(run: Path, name: str) -> list[list[float]]:
    """[step, value] of a scalar in metrics.csv."""
    with next(run.rglob("metrics.csv")).open() as file:
        return [[float(row["step"]), float(row[name])] for row in csv.DictReader(file) if row.get(name)]


def rate(run: Path) -> float:
    """Images a second at the median of the log's rows, by which those with scores and previews in them do not count."""
    return statistics.median(value for _, value in column(run, "images_per_second"))


if __name__ == "__main__":
    main()
