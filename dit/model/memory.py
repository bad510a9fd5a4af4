"""What training a network takes of a GPU's memory, counted on shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dit.model.network import Network, class_of, network_from_spec

AVERAGED = 20  # bytes of a parameter in float32: weight, gradient, two moments of AdamW and an average


class Memory(NamedTuple):
    """Bytes. state: weights, gradients, moments of AdamW and one average, in float32; picture: what the backward pass
    keeps of each picture of a batch; fixed: what it keeps whatever the batch, weights cast for autocast."""

    state: int
    fixed: int
    picture: int


def training_memory(spec: Mapping[str, Any], bf16: bool = True, **run: Any) -> Memory:
    """Of an eager step. bf16: under autocast, as trainer.precision=bf16-mixed; run: arguments that are no part of the
    spec, such as activation_checkpointing.

    Computed with the CPU's autocast, which differs a little from CUDA's. Kernels need more for a moment, and compiled
    blocks keep less.
    """
    with FakeTensorMode():
        network = network_from_spec(spec, **{k: v for k, v in run.items() if k in class_of(spec)[0].RUN_ARGUMENTS})
        kept = [_kept(network, count, bf16) for count in (1, 2)]
        state = AVERAGED * sum(p.numel() for p in network.parameters())
    return Memory(state, 2 * kept[0] - kept[1], kept[1] - kept[0])


def _kept(network: Network, count: int, bf16: bool) -> int:
    """Bytes that the graph of `count` pictures holds, each storage once, those of weights left out."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x, time = torch.empty(count, *network.sample_shape), torch.ones(count)
    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        out = network.train()(x, time, time.long())
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    assert out.requires_grad  # it holds the graph until here
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
