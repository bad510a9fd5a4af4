"""The progress line: step, loss, images per second and time left; a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class TrainingProgress(Callback):
    """Shows where the run is, and logs `images_seen` and `images_per_second`.

    lines_every: seconds between lines where the output is no terminal. Reading the loss waits for the device, so it
    happens only when something is shown.
    """

    def __init__(self, lines_every: float = 10.0):
        self.lines_every = lines_every
        self._console = Console()
        self._bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = self._shown = time.monotonic()
        self._first_step = self._shown_step = trainer.global_step
        if trainer.is_global_zero and self._console.is_terminal:
            columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        now, step = time.monotonic(), trainer.global_step
        due = now - self._shown >= (0.5 if self._bar else self.lines_every)
        if step == self._shown_step or not (due or step == trainer.max_steps):
            return
        # The global batch size is what one optimiser step sees.
        images = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        rate = (step - self._shown_step) * images / (now - self._shown)
        left = (trainer.max_steps - step) * (now - self._begun) / (step - self._first_step)
        pl_module.log_dict({"images_seen": float(step * images), "images_per_second": rate}, rank_zero_only=True)
        self._shown, self._shown_step = now, step
        if not trainer.is_global_zero:
            return
        loss = float(trainer.callback_metrics["train/loss"])
        text = f"loss {loss:.4f}  {rate:,.0f} images/s  {timedelta(seconds=round(left))} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            self._console.print(f"step {step}/{trainer.max_steps}  {text}", highlight=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            averaged, raw = (float(trainer.callback_metrics[f"{name}/loss"]) for name in ("val", "val_raw"))
            text = f"step {trainer.global_step}/{trainer.max_steps}  validation loss {averaged:.4f} (raw {raw:.4f})"
            self._console.print(text, highlight=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Runs after an exception too: a live bar would swallow the message.
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
