"""THE PARTS of `make gpu`, in the order of their worth: what the clock cuts off is worth least."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CARD = "xl2"  # the model that fills it


@dataclass(frozen=True)
class Part:
    """A command with a clock of its own, in seconds. result: the JSON that it writes, if it does."""

    name: str
    limit: int
    command: Sequence[str]
    result: Path | None = None
    what: str = ""


def parts(out: Path, data: Path | None, quick: bool) -> list[Part]:
    """data: CIFAR-10, or other small pictures, as a folder or a zip of one; None takes the digits of scikit-learn."""
    found = [
        tests(quick),
        speed(out, "training-xl2", 130, "training", CARD, quick),
        speed(out, "loop-xl2", 110, "loop", CARD, quick, batch_of(out, "training-xl2")),
        speed(out, "sampling-xl2", 80, "sampling", CARD, quick),
        cifar(out, data, quick),
        speed(out, "ways-xl2", 45, "ways", CARD, quick),
        speed(out, "sampling-s2", 75, "sampling", "s2", quick, 8),
        speed(out, "training-s2", 80, "training", "s2", quick),
        speed(out, "loop-s2", 45, "loop", "s2", quick, 256),
        speed(out, "training-l2", 80, "training", "l2", quick),
        speed(out, "training-b2", 70, "training", "b2", quick),
    ]
    return found[:6] if quick else found


def tests(quick: bool) -> Part:
    many = [] if quick else ["-n", "6"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rf", *many]
    files = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text()]
    return Part(
        "tests", 100, [*command, *(str(file.relative_to(ROOT)) for file in files)], what="the tests that need CUDA"
    )


def speed(out: Path, name: str, limit: int, part: str, model: str, quick: bool, batch: int | None = None) -> Part:
    folder, device = out / name, "cpu" if quick else "cuda"
    command = [sys.executable, "-m", "benchmarks.speed", "--device", device, "--parts", part, "--out", str(folder)]
    command += ["--quick"] if quick else ["--models", model, "--rounds", "5"]
    command += ["--batch", str(batch)] if batch and not quick else []
    return Part(name, limit, command, folder / f"{device}.json", f"{part}, {model}")


def cifar(out: Path, data: Path | None, quick: bool) -> Part:
    command = [sys.executable, "-m", "benchmarks.gpu.run", "--out", str(out / "run")]
    command += ["--quick"] if quick else ["--seconds", "240"]
    command += ["--data", str(data)] if data and not quick else []
    return Part("run", 330, command, out / "run" / "run.json", "a run that is killed, resumed and scored")


def batch_of(out: Path, name: str) -> int | None:
    """Pictures of the batch that filled the card there, if that was measured."""
    file = out / name / "cuda.json"
    return json.loads(file.read_text())["parts"]["training"]["runs"][0]["batch"] if file.exists() else None
