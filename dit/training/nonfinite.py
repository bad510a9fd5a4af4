"""What happens when a loss or a gradient is no number: all processes notice together, before the optimiser moves."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from dit.checkpoint import LAST, PREVIOUS, read
from dit.training.resume import say

if TYPE_CHECKING:
    from dit.training.module import DiTModule

_COLUMNS = ("rank", "picture", "label", "t", "log_snr", "loss")


class BatchRecord(NamedTuple):
    """What one process made of a micro-batch, each [B]: pictures by their number, labels, times, and their losses."""

    index: Tensor
    labels: Tensor
    t: Tensor
    losses: Tensor


class NonFinite(ABC):
    """Writes the batch to nonfinite/step_*.csv in the run folder, a row a picture, then does as the subclass says."""

    def meet(self, module: DiTModule, batch: list[BatchRecord]) -> None:
        """Called by all processes with their parts of the batch of an optimiser step, which is not to be made."""
        rows = _gathered(module, batch)
        file = Path(module.trainer.default_root_dir) / "nonfinite" / f"step_{module.global_step:07d}.csv"
        _write(file, rows)
        self.then(module, f"{_sentence(module.global_step, rows)}; the whole batch is in {file}")

    @abstractmethod
    def then(self, module: DiTModule, what: str) -> None:
        """After the batch was written; what: a sentence of what is not finite."""


class Stop(NonFinite):
    """The run ends; its newest checkpoint is good."""

    def then(self, module: DiTModule, what: str) -> None:
        """Raises FloatingPointError."""
        raise FloatingPointError(f"{what}; this step's update was not applied")


class Rollback(NonFinite):
    """The weights, averages and optimiser of the newest checkpoint take the place of today's, and the run goes on with
    the next batch: steps, learning rate and the order of pictures go on as if the lost updates had been made.

    A run that is killed and resumed comes to the same end, as it meets the same batch with the same checkpoint. times:
    how often in a run; then it stops.
    """

    def __init__(self, checkpoints: str, times: int = 10):
        if not isinstance(times, int) or isinstance(times, bool) or times < 1:
            raise ValueError(f"on_nonfinite.times must be a whole number of at least 1, got {times!r}")
        self.checkpoints, self.times = Path(checkpoints), times

    def then(self, module: DiTModule, what: str) -> None:
        """Raises FloatingPointError, in one sentence, where it gives up."""
        if module.rollbacks == self.times:
            raise FloatingPointError(f"{what}; giving up after {self.times} rollbacks (on_nonfinite.times)")
        refusals = []
        for name in (LAST, PREVIOUS):
            try:
                contents = _good(self.checkpoints / name)
                break
            except ValueError as error:
                refusals.append(str(error))
        else:
            raise FloatingPointError(f"{what}; no checkpoint to go back to: {'; '.join(refusals)}")
        module.restore(contents)
        module.rollbacks += 1
        say(
            f"{what}; back to the weights of step {contents['global_step']}, going on with the next batch "
            f"(rollback {module.rollbacks} of {self.times})"
        )


def _good(file: Path) -> dict[str, Any]:
    contents = read(file, "on_nonfinite")
    bad = [name for name, tensor in contents["state_dict"].items() if not bool(tensor.isfinite().all())]
    if bad:
        raise ValueError(f"{bad[0]} of {file} is not finite")
    return contents


def _gathered(module: DiTModule, batch: list[BatchRecord]) -> Tensor:
    """float64 [N, columns], of all processes; N is the global batch size."""
    index, labels, t, losses = (torch.cat(parts) for parts in zip(*batch, strict=True))
    level = module.denoiser.path.log_snr(t)
    columns = (torch.full_like(index, module.global_rank), index, labels, t, level, losses.detach())
    mine = torch.stack([column.double() for column in columns], dim=1)  # [N / processes, columns]
    gathered = module.all_gather(mine)
    assert isinstance(gathered, Tensor)
    return gathered.reshape(-1, len(_COLUMNS)).cpu()


@rank_zero_only
def _write(file: Path, rows: Tensor) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(_COLUMNS)
        for row in rows.tolist():
            writer.writerow([*map(int, row[:3]), *row[3:]])


def _sentence(step: int, rows: Tensor) -> str:
    bad = rows[~rows[:, -1].isfinite()]
    what, shown = ("loss", bad) if len(bad) else ("gradient", rows)
    ranks = sorted({int(rank) for rank in shown[:, 0].tolist()})
    levels = [f"{level:.2f}" for level in shown[:, 4].tolist()]
    pictures = [str(int(number)) for number in shown[:, 1].tolist()]
    return (
        f"the {what} is not finite at step {step} (rank {', '.join(map(str, ranks))}), log-SNR {_first(levels)}, "
        f"pictures {_first(pictures)} of the training split"
    )


def _first(items: list[str], count: int = 4) -> str:
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more
