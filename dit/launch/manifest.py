"""What became of each trial of a sweep: one JSON file, replaced as a whole, which a resumed sweep starts from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal

from dit.files import read_json, write_json
from dit.locks import hold

State = Literal["queued", "running", "finished", "failed"]


@dataclass
class Trial:
    """number, overrides and config (a digest of its configuration) say which trial; the rest what became of it.

    folder is relative to the sweep's; slot names the GPUs, or the number of a slot without; times are ISO 8601 in UTC.
    """

    number: int
    overrides: list[str]
    config: str
    folder: str
    state: State = "queued"
    slot: list[str] | None = None
    started: str | None = None
    ended: str | None = None
    exit_code: int | None = None
    error: str | None = None
    value: Any = None


class Manifest:
    """`sweep.json` in the sweep's folder. One process at a time may hold it; ValueError for a second."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "sweep.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.trials: dict[int, Trial] = {}

    def __enter__(self) -> Manifest:
        self._lock = _locked(self.folder)
        if self.file.exists():
            known = {field.name for field in fields(Trial)}
            try:
                for entry in read_json(self.file)["trials"]:
                    trial = Trial(**{key: entry[key] for key in known})
                    self.trials[trial.number] = trial
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{self.file} is no manifest of a sweep") from error
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.close()

    def add(self, trial: Trial) -> Trial:
        """The trial as it stands: as it was left if this sweep has been here before.

        ValueError if the sweep's folder holds another sweep, or the trial's folder something else.
        """
        inside, where = (self.folder / trial.folder).resolve(), f"hydra.sweep.dir={self.folder}"
        others = [other.folder for other in self.trials.values() if other.number != trial.number]
        if self.folder.resolve() not in inside.parents or trial.folder in others:
            raise ValueError(f"hydra.sweep.subdir={trial.folder} must be a folder in hydra.sweep.dir, one a trial")
        if trial.number not in self.trials and inside.exists():
            raise ValueError(f"{where} holds {trial.folder}, which is not of this sweep: choose another folder")
        before = self.trials.setdefault(trial.number, trial)
        if (before.overrides, before.config) != (trial.overrides, trial.config):
            what = "its overrides" if before.overrides != trial.overrides else "the configuration behind its overrides"
            raise ValueError(
                f"{where} holds another sweep: trial {trial.number} was {' '.join(before.overrides)}, and {what} "
                "changed since; go on with the command and the files it was begun with, or choose another folder"
            )
        return before

    def write(self) -> None:
        """As a whole: a reader never sees half of it."""
        trials = [asdict(self.trials[number]) for number in sorted(self.trials)]
        write_json(self.file, {"trials": trials}, allow_nan=True)  # a trial may return NaN


def _locked(folder: Path) -> IO[str]:
    try:
        return hold(folder / ".sweep.lock")
    except BlockingIOError as error:
        raise ValueError(f"hydra.sweep.dir={folder} belongs to a sweep that is still running") from error
