"""When snapshots of the averages are written, so that averages of other lengths can be made up after training."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from lightning import Trainer
from torch.distributed.tensor import DTensor

from dit.checkpoint import Metadata, StoredMetadata, list_snapshots, write_snapshot
from dit.checks import check_whole
from dit.training.ema import PowerEma
from dit.training.module import DiTModule
from dit.training.steps import StepCallback

_log = logging.getLogger(__name__)


class SaveSnapshots(StepCallback):
    """Writes every average to `folder` each `every_n_steps` optimiser steps and when training ends.

    A run that goes on from an earlier step makes the later snapshots again, the same bit for bit where nothing was
    changed; they are removed first, so that `folder` never mixes two courses of a run. Snapshots of another run are
    refused before training.

    dtype: "float32", or "float16" (as EDM2) for half the disk; sums of snapshots multiply what rounding lost
    (docs/ema.md).
    """

    def __init__(self, folder: str, every_n_steps: int, dtype: str = "float32"):
        check_whole("callbacks.snapshots.every_n_steps", every_n_steps, least=1)
        if dtype not in ("float16", "float32"):
            raise ValueError(f"callbacks.snapshots.dtype must be float16 or float32, got {dtype!r}")
        self.folder, self.every_n_steps, self.dtype = Path(folder).expanduser(), every_n_steps, getattr(torch, dtype)

    def on_fit_start(self, trainer: Trainer, pl_module: DiTModule) -> None:  # type: ignore[override]
        if not isinstance(pl_module.ema, PowerEma):
            raise ValueError("callbacks.snapshots needs ema=power: averages of constant decays make up no others")
        self._later = [s for s in list_snapshots(self.folder) if s.step > pl_module.ema.steps]
        mine = Metadata.from_dict(json.loads(json.dumps(pl_module.metadata.to_dict())))
        if pl_module.ema.steps == 0 and any(_other_run(s.stored.metadata, mine) for s in self._later):
            raise ValueError(f"{self.folder} holds snapshots of another run; choose another folder or remove them")

    def on_train_start(self, trainer: Trainer, pl_module: DiTModule) -> None:  # type: ignore[override]
        trainer.strategy.barrier()  # until every process has looked
        if trainer.is_global_zero and self._later:
            for snapshot in self._later:
                snapshot.file.unlink()
            _log.info(f"removed {len(self._later)} snapshots after step {trainer.global_step}, which are made again")
        if trainer.is_global_zero:  # what a killed run was writing
            for left in self.folder.glob(".step_*.tmp"):
                left.unlink(missing_ok=True)
        super().on_train_start(trainer, pl_module)
        self._written = 0
        # The run may have ended between a checkpoint and the snapshot of its step.
        self._write_if_due(trainer, pl_module)

    def on_step_end(self, trainer: Trainer, module: DiTModule) -> None:
        self._write_if_due(trainer, module)

    def on_train_end(self, trainer: Trainer, pl_module: DiTModule) -> None:  # type: ignore[override]
        self._write(trainer, pl_module)

    def _write_if_due(self, trainer: Trainer, pl_module: DiTModule) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: DiTModule) -> None:
        if trainer.global_step == self._written:
            return  # training ends with a step whose snapshots are there
        self._written = trainer.global_step
        pl_module.settle()
        assert pl_module.ema.steps == trainer.global_step
        for name, average in pl_module.ema.averages.items():
            # Sharded averages are gathered by all processes together, one average at a time.
            # What is not trained is the same in every average.
            weights = {key: weight.detach().float() for key, weight in pl_module.network.named_parameters()} | average
            full = {key: t.full_tensor() if isinstance(t, DTensor) else t for key, t in weights.items()}
            if trainer.is_global_zero:
                stored = StoredMetadata(pl_module.metadata, f"ema {name}", trainer.global_step)
                write_snapshot(self.folder, full, stored, self.dtype)


def _other_run(theirs: Metadata, mine: Metadata) -> bool:
    return theirs.config != mine.config or bool(mine.differences(theirs))
