"""START-UP: seconds from the start of `python train.py experiment=digits` to the end of its first optimiser step."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning import Callback, Trainer

from benchmarks.rounds import spread
from benchmarks.speed.setting import Setting
from benchmarks.speed.tables import Table, number, quartiles

ROOT = Path(__file__).parents[2]
# What train.py imports, at its top and in `main`.
IMPORTS = "import train, time; from data import pictures_spec; from dit.training import DiTModule; print(time.time())"
PHASES = {
    "imports": "a process of its own that only imports what train.py does",
    "composed": "until Hydra has written the configuration into the run folder",
    "built": "until data, network, module and callbacks are there",
    "loaded": "until the first batch lies ready",
    "first step": "until the first optimiser step has ended",
}
SLOWEST = 8  # packages that are told


class Stamp(Callback):
    """Writes to `out` when callbacks were built, when the first batch began and when it ended (seconds since 1970)."""

    def __init__(self, out: str):
        self.out, self.stamps = Path(out), {"built": time.time()}

    def on_train_batch_start(self, *args: Any) -> None:
        self.stamps.setdefault("loaded", time.time())

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.stamps.setdefault("first step", time.time())
        self.out.write_text(json.dumps(self.stamps))
        trainer.should_stop = True


def measure(setting: Setting) -> dict[str, Any]:
    """Each phase's end in seconds since the start of the process, by round; and the packages slowest to import."""
    rounds = 1 if setting.quick else setting.rounds
    setting.say(f"startup: {rounds} rounds")
    if not setting.quick:
        once(setting)  # the first reads files from disk
    found = [once(setting) for _ in range(rounds)]
    ends = {phase: [each[phase] for each in found] for phase in PHASES}
    return {"ends": ends, "packages": [] if setting.quick else slowest_packages()}


def once(setting: Setting) -> dict[str, float]:
    """By phase, when it ended."""
    begun = time.time()
    imported = float(run("-c", IMPORTS).stdout)
    found = {"imports": imported - begun}
    with TemporaryDirectory() as folder:
        out = Path(folder) / "stamps.json"
        stamp = ["+callbacks.speed._target_=benchmarks.speed.startup.Stamp", f"+callbacks.speed.out={out}"]
        device = f"trainer.accelerator={'gpu' if setting.device == 'cuda' else 'cpu'}"
        begun = time.time()
        run("train.py", "experiment=digits", f"hydra.run.dir={folder}", device, *stamp)
        found["composed"] = (Path(folder) / ".hydra" / "overrides.yaml").stat().st_mtime - begun
        return found | {name: when - begun for name, when in json.loads(out.read_text()).items()}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done


def slowest_packages() -> list[tuple[str, float]]:
    """Seconds of their own that the modules of each top package take to import, by Python's own clock."""
    seconds: dict[str, float] = defaultdict(float)
    for line in run("-X", "importtime", "-c", IMPORTS).stderr.splitlines():
        own, *_, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            seconds[name.strip().partition(".")[0]] += int(own) / 1e6
    return sorted(seconds.items(), key=lambda item: -item[1])[:SLOWEST]


def tables(result: dict[str, Any]) -> Iterator[Table]:
    rows, before = [], 0.0
    for phase in PHASES:
        end = spread(result["ends"][phase])
        rows.append([phase, number(end.median - before), number(end.median), quartiles(end)])
        if phase != "imports":  # which another process did: the script composes before it imports
            before = end.median
    notes = ["; ".join(f"{phase}: {meaning}" for phase, meaning in PHASES.items()) + "."]
    title = "Start-up of train.py experiment=digits, seconds"
    yield Table(title, ["phase", "takes", "ends at", "quartiles"], rows, notes)
    if result["packages"]:
        packages = [[name, f"{seconds:.2f}"] for name, seconds in result["packages"]]
        note = "The modules of a package without what they import themselves; the clock itself makes it slower."
        yield Table("Packages slowest to import", ["package", "seconds"], packages, [note])
