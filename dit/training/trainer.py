"""Lightning's trainer, with the precision left to the machine."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning import Trainer

from dit.checks import check_number, check_whole


def make_trainer(accelerator: str = "auto", precision: str = "auto", **settings: Any) -> Trainer:
    """A Trainer with these settings. precision "auto": bf16-mixed on a GPU that computes in bfloat16, else 32-true.

    Raises ValueError for numbers that Lightning would take and that mean nothing, and what lightning.Trainer raises,
    such as TypeError for a setting it does not have.
    """
    check_precision(precision)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # no banners and tips
    for key in settings.keys() & {"accumulate_grad_batches", "log_every_n_steps"}:
        check_whole(f"trainer.{key}", settings[key], least=1)
    if settings.get("gradient_clip_val") is not None:
        check_number("trainer.gradient_clip_val", settings["gradient_clip_val"], least=0)
    if precision == "auto":
        gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        precision = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return Trainer(accelerator=accelerator, precision=precision, **settings)  # type: ignore[arg-type]


def check_precision(precision: object) -> None:
    """Raises ValueError for half precision, which Lightning makes bfloat16 without a word where there is no GPU."""
    if str(precision).startswith("16"):
        raise ValueError(
            f"trainer.precision={precision} skips steps whose gradients overflow, unseen by averages and schedules; "
            "bf16-mixed and 32-true are allowed"
        )
