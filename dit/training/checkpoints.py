"""When a checkpoint is written, and how: to a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint


class RenamedCheckpointIO(TorchCheckpointIO):
    """A reader never sees half a checkpoint: the file appears under its name only when it is complete on disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


class SaveCheckpoint(Checkpoint):
    """Writes `folder`/last.ckpt every `every_n_steps` optimiser steps and when training ends.

    Refuses, before training, to replace the checkpoint of another run: only the file that is being resumed.
    """

    def __init__(self, folder: str, every_n_steps: int):
        if every_n_steps < 1:
            raise ValueError(f"callbacks.checkpoint.every_n_steps must be at least 1, got {every_n_steps}")
        self.file, self.every_n_steps = Path(folder) / "last.ckpt", every_n_steps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        resumed = trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve() == self.file.resolve()
        if self.file.exists() and not resumed:
            raise ValueError(
                f"{self.file} is the checkpoint of another run; resume={self.file} or choose another folder"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        # With accumulated batches several batches end at the same step; only the first is between two updates.
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step > self._saved:
            self._saved = trainer.global_step
            trainer.save_checkpoint(self.file, weights_only=False)  # with optimiser and loops
