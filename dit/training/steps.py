"""ONCE AN OPTIMISER STEP: with accumulated batches several batches end at the same one."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer


class StepCallback(Callback):
    """Calls `on_step_end(trainer, module)` once after each optimiser step, however many batches it took. A subclass
    that has an `on_train_start` of its own calls this one's first."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step > self._ended:
            self._ended = trainer.global_step
            self.on_step_end(trainer, pl_module)

    def on_step_end(self, trainer: Trainer, module: Any) -> None:
        raise NotImplementedError
