"""The folder of a run: there and writable before work starts, and of one process at a time."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dit.checks import printable
from dit.locks import hold

LOCK = ".run.lock"


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Inside, `folder` belongs to this process; however the process ends, the system gives it free.

    ValueError where another process has it.
    """
    try:
        # Of this process alone: data workers would share it, and outlive a killed run.
        lock = hold(Path(folder) / LOCK, of_process=True)
    except BlockingIOError as error:
        raise ValueError(
            f"hydra.run.dir={folder} belongs to a run that is still going on; wait for its end or choose another"
        ) from error
    except OSError as error:
        raise ValueError(f"hydra.run.dir={folder} cannot be locked: {error.strerror}") from error
    with lock:
        yield


_new: list[Path] = []  # output directories that were not there before this process


def leave_nothing() -> None:
    """Removes the output directory of a run that came to nothing, if it was made for the run and nobody but Hydra has
    written to it."""
    while _new:
        folder = _new.pop()
        if folder.is_dir() and all(f.name in (".hydra", LOCK) or f.suffix == ".log" for f in folder.iterdir()):
            shutil.rmtree(folder)


class CheckTilde(Callback):
    """Refuses a folder that begins with ~, for which Hydra would make one of that name. SystemExit, after one
    sentence."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        HydraConfig.instance().set_config(config)
        _check_tilde("hydra.run.dir", config.hydra.run.dir)
        if not (folder := Path(config.hydra.run.dir).absolute()).exists():
            _new.append(folder)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        HydraConfig.instance().set_config(config)
        _check_tilde("hydra.sweep.dir", config.hydra.sweep.dir)


class CheckFolder(CheckTilde):
    """Looks at the output directory before Hydra makes it, which would show a traceback where that is impossible, and
    replace the .hydra of a run that is still going on. SystemExit, after one sentence, for either."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        super().on_run_start(config)
        folder = Path(config.hydra.run.dir).absolute()
        with _one_sentence("hydra.run.dir", folder):
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder):
                pass

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        super().on_multirun_start(config)
        folder = Path(config.hydra.sweep.dir).absolute()
        with _one_sentence("hydra.sweep.dir", folder):
            folder.mkdir(parents=True, exist_ok=True)


def _check_tilde(key: str, folder: str) -> None:
    if folder.startswith("~"):
        said = printable(f"{key}={folder} begins with ~, which a shell reads only without quotes; write $HOME")
        sys.stderr.write(f"error: {said}\n")
        raise SystemExit(1)


@contextmanager
def _one_sentence(key: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        said = f"{key}={folder} cannot be written: {error.strerror}" if isinstance(error, OSError) else str(error)
        sys.stderr.write(f"error: {printable(said)}\n")
        raise SystemExit(1) from None
