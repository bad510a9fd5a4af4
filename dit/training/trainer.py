"""Lightning's trainer, with the precision left to the machine."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning import Trainer

from dit.checks import Count, check_value, signature


def make_trainer(
    accelerator: str = "auto",
    precision: str = "auto",
    max_steps: Count = 1000,
    accumulate_grad_batches: Count = 1,
    log_every_n_steps: Count = 50,
    gradient_clip_val: Annotated[float, Ge(0)] | None = None,
    **settings: Any,
) -> Trainer:
    """A Trainer with these settings. precision "auto": bf16-mixed on a GPU that computes in bfloat16, else 32-true.

    Raises ValueError for numbers that Lightning would take and that mean nothing, and what lightning.Trainer raises,
    such as TypeError for a setting it does not have.
    """
    bounded = {
        "max_steps": max_steps,
        "accumulate_grad_batches": accumulate_grad_batches,
        "log_every_n_steps": log_every_n_steps,
        "gradient_clip_val": gradient_clip_val,
    }
    _, hints, _ = signature(make_trainer)
    for name, value in bounded.items():
        check_value(f"trainer.{name}", value, hints[name])
    check_precision(precision)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # no banners and tips
    if precision == "auto":
        gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        precision = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return Trainer(accelerator=accelerator, precision=precision, **bounded, **settings)  # type: ignore[arg-type]


def check_precision(precision: object) -> None:
    """Raises ValueError for half precision, which Lightning makes bfloat16 without a word where there is no GPU."""
    if str(precision).startswith("16"):
        raise ValueError(
            f"trainer.precision={precision} skips steps whose gradients overflow, unseen by averages and schedules; "
            "bf16-mixed and 32-true are allowed"
        )
