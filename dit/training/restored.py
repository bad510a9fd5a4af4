"""WHAT OF A CHECKPOINT IS PUT BACK by Lightning and torch, which believe it, compared with what this run has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dit.checks import check_whole, shown
from dit.model.adapters import trained

if TYPE_CHECKING:
    from lightning import Trainer
    from torch.optim import Optimizer

    from dit.training.module import DiTModule


# An optimiser of parameter groups.
Maker = Callable[[list[dict[str, Any]]], "Optimizer"]


def check_weights(checkpoint: dict[str, Any], module: DiTModule) -> None:
    """Raises ValueError unless weights, averages and counters are of this module's form."""
    check_form("weights", checkpoint["state_dict"], module.state_dict())
    parameters = trained(module.network)
    averages = checkpoint["ema"]["averages"]
    for name in averages:
        check_form(f"average {shown(name)}", averages[name], parameters)
    check_whole("cannot resume: ema.steps", checkpoint["ema"].get("steps"), 0)
    loops = checkpoint.get("loops")
    assert module.trainer is not None
    check_form(
        "loops", loops.get("fit_loop") if isinstance(loops, dict) else None, module.trainer.fit_loop.state_dict()
    )
    callbacks = checkpoint.get("callbacks", {})
    if not isinstance(callbacks, dict) or not all(isinstance(state, dict) for state in callbacks.values()):
        raise ValueError(f"cannot resume: the checkpoint's callbacks must have states by name, got {_said(callbacks)}")


def check_optimizer(checkpoint: dict[str, Any], trainer: Trainer, make: Maker) -> None:
    """Raises ValueError unless the state of optimiser and schedule is one that those of `trainer` can go on from.

    In place, settings that another version of torch did not write become this run's, and those that are not known here
    are left out. make: what made the optimiser.
    """
    schedulers = [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs]
    checkpoint["lr_schedulers"] = _completed("lr_schedulers", checkpoint.get("lr_schedulers"), schedulers)
    mine = trainer.optimizers[0].state_dict()["param_groups"]
    state = checkpoint["optimizer_states"][0]
    state["param_groups"] = _completed("param_groups", state["param_groups"], mine)
    live = [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    if [group["params"] for group in state["param_groups"]] != [group["params"] for group in mine]:
        raise ValueError(
            f"cannot resume: the checkpoint's optimiser must number {len(live)} parameters as this run does"
        )
    entries = state.get("state")
    if not isinstance(entries, dict) or not entries.keys() <= set(range(len(live))):
        raise ValueError(
            f"cannot resume: the checkpoint's optimiser must hold a state of each of {len(live)} parameters"
        )
    kinds = {dimensions: _remembered(make, dimensions) for dimensions in {parameter.ndim for parameter in live}}
    for number, entry in entries.items():
        shape = live[number].shape
        check_form(f"optimiser's state {number}", entry, {k: _of(v, shape) for k, v in kinds[len(shape)].items()})


def _completed(what: str, theirs: Any, mine: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not isinstance(theirs, list) or len(theirs) != len(mine) or not all(isinstance(each, dict) for each in theirs):
        raise ValueError(
            f"cannot resume: the checkpoint's {what} must be {len(mine)} settings by name, got {_said(theirs)}"
        )
    known = [each | {key: other[key] for key in each if key in other} for each, other in zip(mine, theirs, strict=True)]
    check_form(what, known, mine)
    return known


def _remembered(make: Maker, dimensions: int) -> dict[str, Any]:
    """What an optimiser remembers, after a step, of a tensor of so many dimensions, each of length 2."""
    one = nn.Parameter(torch.zeros((2,) * dimensions))
    one.grad = torch.zeros_like(one)
    optimizer = make([{"params": [one]}])
    optimizer.step()
    return dict(optimizer.state[one])


def _of(remembered: Any, shape: torch.Size) -> Any:
    """The same of a tensor of this shape: what is remembered may be a number, or one of each row."""
    if not isinstance(remembered, Tensor):
        return remembered
    return torch.empty([m if n == 2 else n for n, m in zip(remembered.shape, shape, strict=False)], device="meta")


def check_form(what: str, theirs: Any, mine: Any) -> None:
    """Raises ValueError unless `theirs` has the names, shapes, lengths and kinds of values of `mine`."""
    where = f"cannot resume: the checkpoint's {what}"
    if isinstance(mine, Tensor):
        if not isinstance(theirs, Tensor) or theirs.shape != mine.shape:
            raise ValueError(f"{where} must be a tensor of {tuple(mine.shape)}, got {_said(theirs)}")
    elif isinstance(mine, Mapping):
        if not isinstance(theirs, Mapping) or theirs.keys() != mine.keys():
            names = f"names {', '.join(map(shown, mine))}"
            raise ValueError(
                f"{where} must have the {names if len(names) < 200 else 'names of this run'}, got {_said(theirs)}"
            )
        for key, value in mine.items():
            check_form(f"{what} {shown(key)}", theirs[key], value)
    elif isinstance(mine, list | tuple):
        if not isinstance(theirs, list | tuple) or len(theirs) != len(mine):
            raise ValueError(f"{where} must be a list of {len(mine)}, got {_said(theirs)}")
        for number, (each, value) in enumerate(zip(theirs, mine, strict=True)):
            check_form(f"{what} {number}", each, value)
    elif _kind(theirs) != _kind(mine):
        raise ValueError(f"{where} must be a {_kind(mine)}, got {_said(theirs)}")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "switch"  # None is a third position of many
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else type(value).__name__


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {tuple(value.shape)}"
    return shown(list(value) if isinstance(value, Mapping) else value)
