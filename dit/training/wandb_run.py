"""A run of wandb that is gone on with where training is, and ended with the job."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, WandbLogger

from dit.checks import shown
from dit.files import write_text


def wandb_logger(save_dir: str, **settings: Any) -> WandbLogger:
    """Lightning's logger on the wandb run whose name is in `save_dir`/wandb_id: a run that is resumed goes on in it."""
    file = Path(save_dir) / "wandb_id"
    if rank_zero_only.rank == 0 and not file.exists():
        write_text(file, secrets.token_hex(4))
    name = file.read_text(errors="replace").strip() if rank_zero_only.rank == 0 else None
    if name is not None and not re.fullmatch(r"[\w-]{1,64}", name):
        raise ValueError(f"{file} must hold the name of a wandb run, got {shown(name)}; remove it to begin another")
    return WandbLogger(save_dir=save_dir, id=name, resume="allow", **settings)


@contextmanager
def finishing(loggers: Sequence[Logger]) -> Iterator[None]:
    """Ends the wandb run, as failed if the body raises: the jobs of a sweep share a process, each needs its own."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=exit_code)
