"""When a checkpoint is written, and how: to a temporary name, then renamed; the one before is kept."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from dit.checkpoint import LAST, PREVIOUS, check_sums
from dit.checks import check_whole
from dit.files import refusal, replaced
from dit.training.run_log import RunLog
from dit.training.signals import Signals


class RenamedCheckpointIO(TorchCheckpointIO):
    """A reader never sees half a checkpoint: the file appears under its name only when it is complete on disk.

    The last.ckpt that it replaces becomes previous.ckpt beside it, if it is known to be good: read or written by this
    object. So at every moment at least one good file is there, whatever state others were found in.
    """

    def __init__(self) -> None:
        self._good: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises ValueError, in one sentence, where the file cannot be written; what was there stays."""
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced(target) as unfinished:
                with unfinished.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                if target.name == LAST and target.resolve() in self._good and target.exists():
                    target.replace(target.with_name(PREVIOUS))
        except (OSError, ValueError) as error:
            if (reason := refusal(error)) is None:
                raise
            raise ValueError(f"cannot write the checkpoint {target}: {reason}; earlier ones are kept") from error
        self._good.add(target.resolve())

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Raises ValueError for a file whose content is not what was written."""
        check_sums(Path(path), "resume")
        contents = super().load_checkpoint(path, *args, **kwargs)
        self._good.add(Path(path).resolve())
        return contents


class SaveCheckpoint(Checkpoint):
    """Writes `folder`/last.ckpt every `every_n_steps` optimiser steps and when training ends.

    SIGTERM, SIGUSR1 or SIGINT (Ctrl-C) to any process of the run: all finish the optimiser step, save, and leave with
    128 + the signal's number, as a shell counts.

    Refuses, before training, to replace the checkpoint of another run: only those of the run that is being resumed.
    """

    def __init__(self, folder: str, every_n_steps: int):
        check_whole("callbacks.checkpoint.every_n_steps", every_n_steps, least=1)
        self.file, self.every_n_steps = Path(folder).expanduser() / LAST, every_n_steps
        self._signals = Signals()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._signals.listen(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ours = [self.file.resolve(), self.file.with_name(PREVIOUS).resolve()]
        resumed = trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve() in ours
        there = [file for file in ours if file.exists()]
        if there and not resumed:
            raise ValueError(f"{there[0]} is the checkpoint of another run; resume={there[0]} or choose another folder")
        if trainer.is_global_zero:  # what a killed run was writing
            for left in self.file.parent.glob(f".{self.file.name}.*.tmp"):
                left.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = trainer.global_step
        for log in _logs(trainer):
            log.go_on_from(trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        # Not when the batch before ended: what it logs, and its validation, come after that.
        if batch_idx % trainer.accumulate_grad_batches:
            return  # in the middle of an optimiser step
        number = self._signals.agreed(trainer)
        if number or trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)
        if number:
            if trainer.is_global_zero:
                then = f": the same command goes on from {self.file}" if trainer.global_step else ", before the first"
                print(f"stopped by {signal.Signals(number).name} at step {trainer.global_step}{then}", flush=True)
            raise SystemExit(128 + number)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._signals.ignore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._signals.ignore()  # no teardown follows

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step > self._saved:
            self._saved = trainer.global_step
            for log in _logs(trainer):
                log.save()
            trainer.save_checkpoint(self.file, weights_only=False)  # with optimiser and loops


def _logs(trainer: Trainer) -> list[RunLog]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunLog)]
