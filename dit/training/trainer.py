"""Lightning's trainer, with the precision left to the machine."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer


def make_trainer(accelerator: str = "auto", precision: str = "auto", **settings: Any) -> Trainer:
    """A Trainer with these settings. precision "auto": bf16-mixed on a GPU that computes in bfloat16, else 32-true.

    Raises what lightning.Trainer raises, such as TypeError for a setting it does not have.
    """
    if precision == "auto":
        gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        precision = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return Trainer(accelerator=accelerator, precision=precision, **settings)  # type: ignore[arg-type]
