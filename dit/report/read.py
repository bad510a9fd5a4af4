"""What a sweep left behind, as it stands: overrides, states, curves, scores and pictures of its trials."""

from __future__ import annotations

import fcntl
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dit.checks import printable, shown
from dit.report.files import content, is_inside, read_object, read_yaml, rows

SEED = "seed"
STATES = ("finished", "failed", "running", "queued", "unfinished", "unknown")  # unknown: nothing says if it finished
_MOST_NUMBERS = 4_000_000  # of one metrics.csv
_LAST_STEP = 1 << 53
_LARGEST = 1e100  # of finite values: their squares are finite
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
    """running: its launcher is still at work. remarks: what was left out."""

    folder: Path
    trials: list[Trial]
    running: bool
    remarks: list[str] = field(default_factory=list)

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
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def last_step(curves: dict[str, Curve]) -> int | None:
    """Optimiser steps that metrics.csv knows of."""
    return max((max(curve) for curve in curves.values()), default=None)


def read_sweep(folder: Path) -> Sweep:
    """Raises ValueError where there is no sweep."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of a sweep: there is no such folder")
    running, entries = _locked(folder), _manifest(folder)
    if entries is not None:
        return Sweep(folder, [_trial(folder, entry, running) for entry in entries], running)
    found = [entry for entry in folder.iterdir() if entry.is_dir()]
    outside = [f"{entry.name} lies outside the sweep's folder: left out" for entry in found if entry.is_symlink()]
    found = [entry for entry in found if is_inside(entry, folder) and _is_trial(entry)]
    if not found:
        raise ValueError(f"{folder} is no folder of a sweep: it has neither sweep.json nor folders of trials")
    found.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])
    numbered = [{"number": index, "folder": path.name} for index, path in enumerate(found)]
    trials = [_trial(folder, entry, running) for entry in numbered]
    return Sweep(folder, trials, running, [printable(remark) for remark in outside])


def _is_trial(folder: Path) -> bool:
    return (folder / ".hydra" / "overrides.yaml").exists() or (folder / "scores.json").exists()


def _locked(folder: Path) -> bool:
    """Whether a launcher holds the lock of `dit.launch.Manifest`."""
    file = folder / ".sweep.lock"
    try:
        if file.is_symlink() or not file.is_file():
            return False
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _manifest(folder: Path) -> list[dict[str, Any]] | None:
    file = folder / "sweep.json"
    try:
        read = read_object(file, folder)
        if read is None:
            return None
        entries = read["trials"]
        for entry in entries:
            number, overrides = entry["number"], entry["overrides"]
            if not isinstance(number, int) or not isinstance(entry["folder"], str) or entry["state"] not in STATES:
                raise ValueError(f"{shown(entry)} is no trial")
            if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
                raise ValueError(f"{shown(overrides)} are no overrides")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is no manifest of a sweep") from error
    except ValueError as error:
        raise ValueError(f"{file} is no manifest of a sweep: {error}") from error
    return entries


def _trial(root: Path, entry: dict[str, Any], running: bool) -> Trial:
    """Of an entry of the manifest, or of the number and folder of a trial without one."""
    folder, remarks = root / entry["folder"], list[str]()
    inside = is_inside(folder, root)
    if not inside:
        remarks.append(f"{shown(entry['folder'])} lies outside the sweep's folder: nothing of it is read")
    reading = _Reading(folder, root, remarks) if inside else None
    overrides = entry["overrides"] if "overrides" in entry else reading.overrides() if reading else []
    config = reading.config() if reading else {}
    curves = reading.curves() if reading else {}
    scores, protocol = reading.scores() if reading else ([], None)
    if "state" in entry:
        state = "unfinished" if entry["state"] in ("running", "queued") and not running else entry["state"]
    else:
        state = _guess(config, last_step(curves), bool(scores))
    error, value = entry.get("error"), entry.get("value")
    return Trial(
        number=entry["number"],
        folder=folder,
        overrides=dict(map(_override, overrides)),
        state=state,
        error=error if error is None else str(error),
        value=value if value is None or isinstance(value, int | float | str) else shown(value),
        config=config,
        curves=curves,
        scores=scores,
        protocol=protocol,
        picture=reading.picture() if reading else None,
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


class _Reading:
    """The files in a trial's `folder`, below that of the sweep, `root`; what cannot be read becomes a remark."""

    def __init__(self, folder: Path, root: Path, remarks: list[str]):
        self.folder, self.root, self.remarks = folder, root, remarks

    def overrides(self) -> list[str]:
        found = self._yaml("overrides.yaml", list)
        return [override for override in found if isinstance(override, str)]

    def config(self) -> dict[str, Any]:
        return self._yaml("config.yaml", dict)

    def _yaml(self, name: str, kind: type) -> Any:
        try:
            found = read_yaml(self.folder / ".hydra" / name, self.root)
        except ValueError as error:
            self.remarks.append(f".hydra/{name} cannot be read: {error}")
            found = None
        return found if isinstance(found, kind) else kind()

    def curves(self) -> dict[str, Curve]:
        """Every column against the optimiser steps done. Lines that a kill or a full disk tore are left out."""
        curves: dict[str, Curve] = {}
        torn = numbers = 0
        try:
            raw = content(self.folder / "csv" / "version_0" / "metrics.csv", self.root)
            for row in rows(raw or b""):
                try:
                    step = int(row["step"]) + 1 if row else 0  # Lightning counts from 0
                    values = {key: float(cell) for key, cell in (row or {}).items() if cell and key != "step"}
                except (KeyError, ValueError):
                    step, values = 0, {}
                if not 0 < step < _LAST_STEP:
                    torn += 1
                    continue
                numbers += len(values)
                if numbers > _MOST_NUMBERS:
                    raise ValueError(f"after {_MOST_NUMBERS:,} numbers the rest is left out")
                for key, value in values.items():
                    curves.setdefault(key, {})[step] = value if abs(value) < _LARGEST else value * math.inf
        except ValueError as error:
            self.remarks.append(f"metrics.csv: {error}")
        if torn:
            self.remarks.append(f"metrics.csv: {torn} torn line{'s' if torn > 1 else ''} left out")
        return curves

    def scores(self) -> tuple[list[dict[str, Any]], Any]:
        try:
            found = read_object(self.folder / "scores.json", self.root)
            return ([], None) if found is None else ([_row(row) for row in found["rows"]], found["protocol"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            why = f": {error}" if isinstance(error, ValueError) else ""
            self.remarks.append(f"scores.json cannot be read{why}")
            return [], None

    def picture(self) -> Path | None:
        """The last preview, or else the samples."""
        previews = list((self.folder / "previews").glob("step_*.png"))
        previews.sort(key=lambda file: int(re.sub(r"\D", "", file.stem) or 0))
        others = [self.folder / name for name in ("samples.png", "grid.png")]
        for file in (*previews[-1:], *others):
            if is_inside(file, self.root) and file.is_file():
                return file
            if file.is_symlink():
                self.remarks.append(printable(f"{file.name} is a link out of the sweep's folder: not shown"))
        return None


def _override(text: str) -> tuple[str, str]:
    key, _, value = text.lstrip("+~").partition("=")
    return key, value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of scores.json, with `scores` as value, low and high of what was measured."""
    step = row.get("step")
    if step is not None and (not isinstance(step, int) or not 0 <= step < _LAST_STEP):
        raise ValueError(f"{shown(step)} is no step")
    found = {}
    for name, score in row["scores"].items():
        if score is not None and score["value"] is not None:
            if not isinstance(value := score["value"], int | float):
                raise ValueError(f"{shown(value)} is no score")
            found[name] = (
                float(value) if abs(value) < _LARGEST else value * math.inf,
                *map(number, (score["low"], score["high"])),
            )
    return {**row, "name": str(row.get("name", "")), "step": step, "scale": row.get("scale"), "scores": found}
