"""What a sweep left behind, as it stands: overrides, states, curves, scores and pictures of its trials."""

from __future__ import annotations

import csv
import fcntl
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

SEED = "seed"
STATES = ("finished", "failed", "running", "queued", "unfinished", "unknown")  # unknown: nothing says if it finished
Curve = dict[int, float]  # optimiser steps done: value


@dataclass(frozen=True)
class Trial:
    """overrides: key to value, as on the command line. curves: by column of metrics.csv. scores: the rows of
    scores.json, measured under `protocol`. picture: the last preview, or the samples. remarks: what could not be read.
    """

    number: int
    folder: Path
    overrides: dict[str, str]
    state: str
    error: str | None = None
    value: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    protocol: Any = None
    picture: Path | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def step(self) -> int | None:
        return last_step(self.curves)

    @property
    def counts(self) -> bool:
        """Whether its last numbers may stand beside those of others."""
        return self.state in ("finished", "unknown")

    @property
    def seed(self) -> str:
        """As overridden, or as its scores tell."""
        told = self.protocol[SEED] if isinstance(self.protocol, dict) and SEED in self.protocol else ""
        return self.overrides[SEED] if SEED in self.overrides else str(told)


@dataclass(frozen=True)
class Sweep:
    """running: its launcher is still at work."""

    folder: Path
    trials: list[Trial]
    running: bool

    @cached_property
    def swept(self) -> dict[str, list[str]]:
        """Keys whose values differ between the trials, but for the seed, with their values; in the order given."""
        return {key: values for key, values in self._values.items() if len(values) > 1 and key != SEED}

    @cached_property
    def seeds(self) -> list[str]:
        return ordered(trial.seed for trial in self.trials)

    @cached_property
    def fixed(self) -> list[str]:
        return [f"{key}={values[0]}" for key, values in self._values.items() if len(values) == 1]

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        keys = dict.fromkeys(key for trial in self.trials for key in trial.overrides)
        return {key: ordered(override(trial, key) for trial in self.trials) for key in keys}


def override(trial: Trial, key: str) -> str:
    """What the trial has for a key, which others may have been given alone."""
    if key in trial.overrides:
        return trial.overrides[key]
    found: Any = trial.config
    for name in key.split("."):
        found = found[name] if isinstance(found, dict) and name in found else None
    return "default" if found is None or isinstance(found, dict) else str(found)


def ordered(values: Any) -> list[str]:
    """The different ones: numbers by size, else as they come."""
    found = list(dict.fromkeys(values))
    return sorted(found, key=float) if all(number(value) is not None for value in found) else found


def number(text: Any) -> float | None:
    """None for what is no finite number."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def last_step(curves: dict[str, Curve]) -> int | None:
    """Optimiser steps that metrics.csv knows of."""
    return max((max(curve) for curve in curves.values()), default=None)


def read_sweep(folder: Path) -> Sweep:
    """ValueError where there is no sweep."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of a sweep: there is no such folder")
    running, entries = _locked(folder), _manifest(folder)
    if entries is not None:
        return Sweep(folder, [_trial(folder / entry["folder"], entry, running) for entry in entries], running)
    found = [entry for entry in folder.iterdir() if entry.is_dir() and _is_trial(entry)]
    if not found:
        raise ValueError(f"{folder} is no folder of a sweep: it has neither sweep.json nor folders of trials")
    found.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])
    return Sweep(folder, [_trial(path, {"number": index}, running) for index, path in enumerate(found)], running)


def _is_trial(folder: Path) -> bool:
    return (folder / ".hydra" / "overrides.yaml").exists() or (folder / "scores.json").exists()


def _locked(folder: Path) -> bool:
    """Whether a launcher holds the lock of `dit.launch.Manifest`."""
    try:
        with (folder / ".sweep.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _manifest(folder: Path) -> list[dict[str, Any]] | None:
    file = folder / "sweep.json"
    if not file.exists():
        return None
    try:
        entries = json.loads(file.read_text())["trials"]
        for entry in entries:
            _ = (entry["number"], entry["folder"], entry["overrides"], entry["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no manifest of a sweep") from error
    return entries


def _trial(folder: Path, entry: dict[str, Any], running: bool) -> Trial:
    remarks: list[str] = []
    told = _yaml(folder / ".hydra" / "overrides.yaml", remarks)
    config = _yaml(folder / ".hydra" / "config.yaml", remarks)
    overrides = entry["overrides"] if "overrides" in entry else told if isinstance(told, list) else []
    config = config if isinstance(config, dict) else {}
    curves = _curves(folder / "csv" / "version_0" / "metrics.csv", remarks)
    scores, protocol = _scores(folder / "scores.json", remarks)
    if "state" in entry:
        state = "unfinished" if entry["state"] in ("running", "queued") and not running else entry["state"]
    else:
        state = _guess(config, last_step(curves), bool(scores))
    return Trial(
        number=entry["number"],
        folder=folder,
        overrides=dict(map(_override, overrides)),
        state=state,
        error=entry.get("error"),
        value=entry.get("value"),
        config=config,
        curves=curves,
        scores=scores,
        protocol=protocol,
        picture=_picture(folder),
        remarks=remarks,
    )


def _guess(config: dict[str, Any], step: int | None, scored: bool) -> str:
    """The state of a trial of which no manifest tells."""
    trainer = config["trainer"] if "trainer" in config else None  # noqa: SIM401 configurations are not asked by get
    steps = trainer["max_steps"] if isinstance(trainer, dict) and "max_steps" in trainer else None
    if step is None:
        return "finished" if scored else "unfinished"
    if not isinstance(steps, int) or steps < 1:
        return "unknown"
    return "finished" if step >= steps else "unfinished"


def _override(text: str) -> tuple[str, str]:
    key, _, value = text.lstrip("+~").partition("=")
    return key, value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _yaml(file: Path, remarks: list[str]) -> Any:
    try:
        return yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError):
        remarks.append(f"{file.parent.name}/{file.name} cannot be read")
        return None


def _curves(file: Path, remarks: list[str]) -> dict[str, Curve]:
    """Every column against the optimiser steps done. Lines that a kill or a full disk tore are left out."""
    try:
        text = file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return {}
    every = text.splitlines()
    whole = every if text.endswith("\n") else every[:-1]
    torn, curves = len(every) - len(whole), {}
    lines = csv.reader(whole)
    header = next(lines, [])
    for cells in lines:
        row = dict(zip(header, cells, strict=False))
        try:
            step = int(row["step"]) + 1  # Lightning counts from 0
            values = {key: float(cell) for key, cell in row.items() if cell and key != "step"}
        except (KeyError, ValueError):
            torn += 1
            continue
        if len(cells) != len(header):
            torn += 1
            continue
        for key, value in values.items():
            curves.setdefault(key, {})[step] = value
    if torn:
        remarks.append(f"metrics.csv: {torn} torn line{'s' if torn > 1 else ''} left out")
    return curves


def _scores(file: Path, remarks: list[str]) -> tuple[list[dict[str, Any]], Any]:
    try:
        found = json.loads(file.read_text())
        bare = {"name": "", "step": None, "scale": None}
        return [bare | row | {"scores": _values(row["scores"])} for row in found["rows"]], found["protocol"]
    except FileNotFoundError:
        return [], None
    except (AttributeError, KeyError, TypeError, ValueError):
        remarks.append("scores.json cannot be read")
        return [], None


def _values(scores: dict[str, Any]) -> dict[str, tuple[float, float | None, float | None]]:
    """Value, low and high of what was measured."""
    found = {}
    for name, score in scores.items():
        if score is not None and score["value"] is not None:
            found[name] = (float(score["value"]), number(score["low"]), number(score["high"]))
    return found


def _picture(folder: Path) -> Path | None:
    previews = sorted((folder / "previews").glob("step_*.png"), key=lambda file: int(re.sub(r"\D", "", file.stem) or 0))
    others = [file for name in ("samples.png", "grid.png") if (file := folder / name).exists()]
    return next(iter(previews[-1:] + others), None)
