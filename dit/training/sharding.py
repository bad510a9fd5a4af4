"""Weights, averages and optimiser state spread over the processes (FSDP2), with the checkpoints of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


class FullySharded(ModelParallelStrategy):
    """Every process keeps 1/n of each tensor and gathers a block's weights when the block runs (Zhao et al. 2023).

    Lightning's strategy, with all processes in one group, and with checkpoints that are those of an unsharded run, to
    the last name: any number of processes resumes them, and sampling reads them.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    # The module is sharded in configure_model, before anything is restored, so restoring needs no turn of its own.
    restore_checkpoint_after_setup = False  # type: ignore[assignment]
    lightning_restore_optimizer = True  # type: ignore[assignment]

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.model is not None
        return gathered(self.model.state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        self.model.load_state_dict(scattered(checkpoint["state_dict"], self.model.state_dict()), strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return gathered(Strategy.optimizer_state(self, optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            groups = state["param_groups"]
            numbers = chain.from_iterable(group["params"] for group in groups)
            mine = chain.from_iterable(group["params"] for group in optimizer.param_groups)
            live = dict(zip(numbers, mine, strict=True))
            # Of what an optimiser remembers of a parameter, only what has its shape is sharded like it.
            entries = {
                number: {
                    key: _like(value, live[number]) if _shape(value) == live[number].shape else value
                    for key, value in entry.items()
                }
                for number, entry in state["state"].items()
            }
            optimizer.load_state_dict({"state": entries, "param_groups": groups})


def shard(modules: Iterable[nn.Module], blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shards each of `blocks`, and whatever else `modules` hold, in place. Names stay as they are."""
    for block in blocks:
        fully_shard(block, mesh=mesh)
    for module in modules:
        # A root as well gives back what it gathered: between steps the averages must find the shards.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def gathered(state: Any) -> Any:
    """Nested containers with every sharded tensor whole, on the CPU; all processes must call it together."""
    return _map(state, lambda key, tensor: tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor)


def scattered(state: Any, live: Mapping[str, Tensor]) -> Any:
    """Nested containers in which each tensor under a name of `live` is sharded as the live one is."""
    return _map(state, lambda key, tensor: _like(tensor, live[key]) if key in live else tensor)


def full(tensor: Tensor) -> Tensor:
    """The tensor, gathered if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(tensor: Tensor, live: Tensor) -> Tensor:
    if not isinstance(live, DTensor):
        return tensor
    # Each process has read the same file: nothing needs to be sent.
    return distribute_tensor(tensor.to(live.device), live.device_mesh, live.placements, src_data_rank=None)


def _map(state: Any, change: Callable[[Any, Tensor], Tensor], key: Any = None) -> Any:
    if isinstance(state, Tensor):
        return change(key, state)
    if isinstance(state, Mapping):
        return {name: _map(value, change, name) for name, value in state.items()}
    return [_map(value, change) for value in state] if isinstance(state, list) else state


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None
