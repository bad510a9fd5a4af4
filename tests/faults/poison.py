"""Pictures of one rank that are no numbers, at one step."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer


class Poison(Callback):
    def __init__(self, rank: int, step: int):
        self.rank, self.step = rank, step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            batch.images.fill_(float("nan"))
