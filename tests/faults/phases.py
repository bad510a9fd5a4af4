"""What a run is doing, seen from outside while it does it, and where it can be struck from within."""

from __future__ import annotations

import importlib
import io
import mmap
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch.loops.evaluation_loop
import lightning.pytorch.loops.training_epoch_loop
import torch

import dit.files
import dit.training.run_log
from data import Digits
from dit.training import DiTModule, Preview, RenamedCheckpointIO, RunLog, SaveCheckpoint, SaveSnapshots

_read = importlib.import_module("dit.checkpoint.reading")

# Phases that show from outside; the others are moments within them, in which the process is killed from inside.
FOLDED = {
    "starting": None,
    "reading the checkpoint": (_read, "unpickled"),
    "loading pictures": (Digits, "setup"),
    "restoring": (RenamedCheckpointIO, "load_checkpoint"),
    "cutting the log back": (RunLog, "go_on_from"),
    "training": (lightning.pytorch.loops.training_epoch_loop._TrainingEpochLoop, "run"),
    "validation": (lightning.pytorch.loops.evaluation_loop._EvaluationLoop, "run"),
    "preview": (Preview, "_show"),
    "snapshot": (SaveSnapshots, "_write"),
    "log": (RunLog, "save"),
    "checkpoint": (RenamedCheckpointIO, "save_checkpoint"),
    "end": (SaveCheckpoint, "on_train_end"),
}
PHASES = list(FOLDED)


class Board:
    """Memory that a run shares with the campaign: its phase and its step."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)

    def write(self, phase: int, step: int) -> None:
        self._memory[:16] = struct.pack("qq", phase, step)

    @property
    def step(self) -> int:
        return struct.unpack("qq", self._memory[:16])[1]

    @property
    def phase(self) -> str:
        return PHASES[struct.unpack("qq", self._memory[:16])[0]]

    def follow(self) -> None:
        """In the process of a run: from now on its phase and step are shown here."""
        stack = [0]

        def wrap(owner: Any, name: str, phase: int) -> None:
            function = getattr(owner, name)

            def shown(*args: Any, **kwargs: Any) -> Any:
                stack.append(phase)
                self.write(phase, self.step)
                try:
                    return function(*args, **kwargs)
                finally:
                    stack.pop()
                    self.write(stack[-1], self.step)

            setattr(owner, name, shown)

        for phase, place in enumerate(FOLDED.values()):
            if place is not None:
                wrap(*place, phase)
        train = DiTModule.training_step

        def training_step(module: DiTModule, *args: Any) -> Any:
            self.write(stack[-1], module.global_step)
            return train(module, *args)

        DiTModule.training_step = training_step  # type: ignore[method-assign]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Strike:
    """kill -9 at the `count`-th time that a run comes to `moment`, one of MOMENTS."""

    moment: str
    count: int

    def arm(self) -> None:
        """In the process of a run."""
        owner, name, applies, half = MOMENTS[self.moment]
        function, left = getattr(owner, name), [self.count]

        def struck(*args: Any, **kwargs: Any) -> Any:
            if applies(*args):
                left[0] -= 1
                if not left[0]:
                    half(*args)
                    _die()
            return function(*args, **kwargs)

        setattr(owner, name, struck)


def _half_saved(contents: Any, file: io.BufferedWriter) -> None:
    """Half of the bytes reach the disk."""
    whole = io.BytesIO()
    _save(contents, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()


def _half_line(writer: Any) -> None:
    """The log ends in the middle of a line."""
    file = Path(writer.metrics_file_path)
    if file.exists():
        with file.open("a") as out:
            out.write("1.5,0.2")


def _named(begin: str, end: str = "") -> Callable[..., bool]:
    return lambda path, *_: path.name.startswith(begin) and path.name.endswith(end)


def _always(*_: Any) -> bool:
    return True


def _nothing(*_: Any) -> None: ...


_save = torch.save

# moment -> what is called then, for which arguments, and what is half done before the kill
MOMENTS: dict[str, tuple[Any, str, Callable[..., bool], Callable[..., None]]] = {
    "starting": (Digits, "setup", _always, _nothing),
    "reading the checkpoint": (_read, "check_sums", _always, _nothing),
    "restoring": (DiTModule, "on_load_checkpoint", _always, _nothing),
    "the log is cut back": (dit.training.run_log._Writer, "keep", _always, _nothing),
    "the log is written anew, before its rename": (Path, "replace", _named(".metrics.csv"), _nothing),
    "half a line of the log": (dit.training.run_log._Writer, "save", _always, _half_line),
    "validation": (DiTModule, "validation_step", _always, _nothing),
    "preview": (Preview, "images", _always, _nothing),
    "snapshot, before its rename": (Path, "replace", _named(".step_"), _nothing),
    "half a checkpoint": (torch, "save", _always, _half_saved),
    "checkpoint, before fsync": (os, "fsync", _always, _nothing),
    "checkpoint, before the first rename": (Path, "replace", _named("last.ckpt"), _nothing),
    "checkpoint, between the two renames": (Path, "replace", _named(".last.ckpt", ".tmp"), _nothing),
    "checkpoint, after both renames": (dit.files, "_sync", lambda path: path.name == "checkpoints", _nothing),
    "end of training": (SaveCheckpoint, "on_train_end", _always, _nothing),
}
