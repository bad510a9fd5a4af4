"""The progress line: step, loss, images per second and time left; a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class TrainingProgress(Callback):
    """Shows where the run is, and logs `images_seen` and `images_per_second` with the trainer's other scalars.

    lines_every: seconds between lines where the output is no terminal. Reading the loss waits for the device, so it
    happens only when something is shown.
    """

    def __init__(self, lines_every: float = 10.0):
        self.lines_every = lines_every
        self._console = Console(highlight=False)
        self._bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = self._shown = self._logged = (time.monotonic(), trainer.global_step)
        if not trainer.is_global_zero:
            return
        parameters = sum(p.numel() for p in pl_module.parameters())
        self._console.print(
            f"{parameters / 1e6:,.1f} M parameters on {pl_module.device}, batch {_batch_size(trainer)}, "
            f"steps {trainer.global_step} to {trainer.max_steps}"
        )
        if self._console.is_terminal:
            columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        now = (time.monotonic(), trainer.global_step)
        # With accumulated batches several batches end at the same step.
        if now[1] > self._logged[1] and now[1] % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            images_seen = float(now[1] * _batch_size(trainer))
            rate = _batch_size(trainer) * _steps_per_second(self._logged, now)
            pl_module.log_dict({"images_seen": images_seen, "images_per_second": rate}, rank_zero_only=True)
            self._logged = now
        due = now[0] - self._shown[0] >= (0.5 if self._bar else self.lines_every)
        if trainer.is_global_zero and now[1] > self._shown[1] and (due or now[1] == trainer.max_steps):
            self._show(trainer, now)
            self._shown = now

    def _show(self, trainer: Trainer, now: tuple[float, int]) -> None:
        rate = _batch_size(trainer) * _steps_per_second(self._shown, now)
        left = timedelta(seconds=round((trainer.max_steps - now[1]) / _steps_per_second(self._begun, now)))
        text = f"loss {float(trainer.callback_metrics['train/loss']):.4f}  {rate:,.0f} images/s  {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=now[1], description=text)
        else:
            self._console.print(f"step {now[1]}/{trainer.max_steps}  {text}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            averaged, raw = (float(trainer.callback_metrics[f"{name}/loss"]) for name in ("val", "val_raw"))
            text = f"step {trainer.global_step}/{trainer.max_steps}  validation loss {averaged:.4f} (raw {raw:.4f})"
            self._console.print(text)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Runs after an exception too: a live bar would swallow the message.
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _batch_size(trainer: Trainer) -> int:
    """Pictures of one optimiser step."""
    return trainer.datamodule.batch_size  # type: ignore[attr-defined]


def _steps_per_second(before: tuple[float, int], now: tuple[float, int]) -> float:
    return (now[1] - before[1]) / (now[0] - before[0])
