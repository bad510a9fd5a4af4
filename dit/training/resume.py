"""Where a run goes on: the newest good checkpoint of its folder, and Lightning's counters as this run counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only

from dit.checkpoint import LAST, PREVIOUS, check_resume, read
from dit.checks import printable

# What makes a run this one rather than another; pictures and weights are compared when a checkpoint is loaded.
_SAME = ("seed", "model", "diffusion", "times", "loss", "optimizer", "lr_schedule", "ema", "dropout", "adapter")
_BEFORE = {"lr_schedule": "scheduler"}  # what a key was called in older checkpoints
# Another way to the same numbers, and what older versions said twice.
_FREE = ("model.attention", "model.activation_checkpointing", "loss.path")


@dataclass(frozen=True)
class Start:
    """The checkpoint to go on from, None to begin; finished: whether nothing is left to do, with the last validation
    loss of the run, if it has one."""

    file: Path | None = None
    finished: bool = False
    validation_loss: float | None = None


def find_start(resume: str | None, folder: str | Path, max_steps: int, config: dict[str, Any]) -> Start:
    """resume: a path; "auto" for the newest good checkpoint in `folder`, if there is any; None to begin. config: the
    configuration of this run, which with "auto" must be that of the checkpoint.

    Says which checkpoint it is. ValueError, in one sentence, where there is something that cannot be gone on from.
    """
    if resume is None:
        return Start()
    if resume != "auto":
        check_resume(resume, max_steps)
        return Start(Path(resume).expanduser())
    there = [file for name in (LAST, PREVIOUS) if (file := Path(folder).expanduser() / name).exists()]
    if not there:
        return Start()
    file, contents = _newest_good(there)
    # What an older version did not write, it did not know: it is as it was without.
    if different := _differences(contents["metadata"].config, config, unknown="passport" in contents):
        key, theirs, mine = different[0]
        more = f" ({len(different) - 1} more keys differ)" if len(different) > 1 else ""
        raise ValueError(
            f"{file} is of a run with {key}={theirs}, not {mine}{more}; choose another folder, or go on "
            f"differently with resume={file}"
        )
    step = contents["global_step"]
    if step >= max_steps:
        say(f"finished before: {file} is at step {step} of trainer.max_steps={max_steps}")
        return Start(file, finished=True, validation_loss=contents.get("run", {}).get("validation_loss"))
    say(f"resuming {file} at step {step}")
    return Start(file)


def align(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Rewrites how many batches Lightning has counted, in place, for this number of accumulated batches, as it counts
    between the last batch of an optimiser step and its validation, which it does not repeat.

    Which pictures come next, and what is drawn for them, follows from that count alone. Says if they are shared out
    otherwise than before.
    """
    step, accumulated = checkpoint["global_step"], trainer.accumulate_grad_batches
    loop = checkpoint["loops"]["fit_loop"]
    count = step * accumulated
    for name in ("total", "current"):
        progress = loop["epoch_loop.batch_progress"][name]
        progress |= {"ready": count, "started": count, "processed": count, "completed": count - 1}
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1
    before, now = checkpoint.get("run", {}).get("shared"), shared(trainer)
    if before not in (None, now):
        say(
            f"a batch is now {now[0]} processes x {now[1]} accumulated, before {before[0]} x {before[1]}: the same "
            "pictures in the same order, with the same draws"
        )


def shared(trainer: Trainer) -> list[int]:
    """How a global batch is shared out: processes, and accumulated batches of each."""
    return [trainer.world_size, trainer.accumulate_grad_batches]


def _newest_good(files: list[Path]) -> tuple[Path, dict[str, Any]]:
    refusals = []
    for file in files:
        try:
            return file, read(file, "resume")
        except ValueError as error:
            refusals.append(str(error))
            if len(refusals) < len(files):
                say(f"{error}; going back to the one before")
    raise ValueError(f"no checkpoint is left to resume: {'; '.join(refusals)}; choose another folder or remove them")


def _differences(theirs: dict[str, Any], mine: dict[str, Any], unknown: bool = False) -> list[tuple[str, Any, Any]]:
    """(key, value in theirs, value in mine) of what differs; a key that one of them lacks is None there. unknown: leave
    out those that theirs lacks."""
    flat = [_flat({key: side.get(key, side.get(_BEFORE.get(key, key))) for key in _SAME}) for side in (theirs, mine)]
    keys = [
        key
        for key in (flat[0] if unknown else flat[0] | flat[1])
        if not f"{key}.".startswith(tuple(f"{name}." for name in _FREE))
    ]
    return [(key, flat[0].get(key), flat[1].get(key)) for key in keys if flat[0].get(key) != flat[1].get(key)]


def _flat(node: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {name: node}
    parts = (_flat(value, f"{name}.{key}" if name else str(key)) for key, value in node.items())
    return {key: value for part in parts for key, value in part.items()}


@rank_zero_only
def say(line: str) -> None:
    print(printable(line), flush=True)
