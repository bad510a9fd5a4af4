"""The progress line: step, loss, images per second and time left; a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import resource
import time
from datetime import timedelta

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.throughput import get_available_flops
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dit.model.count import count
from dit.training.steps import StepCallback


class TrainingProgress(StepCallback):
    """Shows where the run is, and logs with the trainer's other scalars `images_seen`, `images_per_second`,
    `memory_gib` (the most the GPU held since the last time, or on a CPU the process so far) and, on a GPU whose peak is
    known, `mfu`.

    MFU is the share of the GPUs' nominal rate that the network's own arithmetic takes: a forward pass and twice that
    for the gradients, recomputed activations not counted (Chowdhery et al. 2022, PaLM, appendix B).

    lines_every: seconds between lines where the output is no terminal. Reading the loss waits for the device, so it
    happens only when something is shown; between two rows of the log it is the loss of the first process.
    """

    def __init__(self, lines_every: float = 10.0):
        self.lines_every = lines_every
        self._console = Console(highlight=False)
        self._bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._begun = self._shown = self._logged = (time.monotonic(), trainer.global_step)
        self._flops = _flops(trainer, pl_module)
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

    def on_step_end(self, trainer: Trainer, module: LightningModule) -> None:
        now = (time.monotonic(), trainer.global_step)
        if now[1] % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            images_seen = float(now[1] * _batch_size(trainer))
            rate = _batch_size(trainer) * _steps_per_second(self._logged, now)
            values = {"images_seen": images_seen, "images_per_second": rate, "memory_gib": _memory(module.device)}
            module.log_dict(values | self._mfu(rate), rank_zero_only=True)
            self._logged = now
        due = now[0] - self._shown[0] >= (0.5 if self._bar else self.lines_every)
        if trainer.is_global_zero and (due or now[1] == trainer.max_steps):
            self._show(trainer, now)
            self._shown = now

    def _show(self, trainer: Trainer, now: tuple[float, int]) -> None:
        rate = _batch_size(trainer) * _steps_per_second(self._shown, now)
        left = timedelta(seconds=round((trainer.max_steps - now[1]) / _steps_per_second(self._begun, now)))
        speed = "".join([f"{rate:,.0f} images/s", *(f", {mfu:.0%} MFU" for mfu in self._mfu(rate).values())])
        text = f"loss {float(trainer.callback_metrics['train/loss']):.4f}  {speed}  {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=now[1], description=text)
        else:
            self._console.print(f"step {now[1]}/{trainer.max_steps}  {text}")

    def _mfu(self, rate: float) -> dict[str, float]:
        """Of so many images a second; nothing where the peak is not known."""
        return {} if self._flops is None else {"mfu": rate * self._flops[0] / self._flops[1]}

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


def _flops(trainer: Trainer, module: LightningModule) -> tuple[float, float] | None:
    """FLOPs of training on one picture, and those of all GPUs in a second."""
    if module.device.type != "cuda":
        return None
    dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
    peak = get_available_flops(module.device, dtype)
    _, forward = count(module.network.spec)  # type: ignore[union-attr,operator]
    return None if peak is None else (3 * forward * 2e9, peak * trainer.world_size)


def _memory(device: torch.device) -> float:
    if device.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    most = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return most


def _batch_size(trainer: Trainer) -> int:
    """Pictures of one optimiser step."""
    return trainer.datamodule.batch_size  # type: ignore[attr-defined]


def _steps_per_second(before: tuple[float, int], now: tuple[float, int]) -> float:
    return (now[1] - before[1]) / (now[0] - before[0])
