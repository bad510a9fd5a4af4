"""Which parameters the optimiser treats alike: matrices, which may decay, and everything else, which may not."""

from __future__ import annotations

from typing import Any

from torch import nn

from dit.model.adapters import trained


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups for an optimiser: the matrices with its own weight decay, the rest with none.

    A matrix is a `weight` of two dimensions or more, of a linear map or a convolution; biases, vectors, norms,
    embeddings and tables of positions are the rest. Decay makes a map less steep, but would only pull an offset, or the
    row of a class however rare, towards zero.
    """
    rows = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    matrices, rest = [], []
    for name, parameter in trained(module).items():
        decays = parameter.ndim >= 2 and name.endswith("weight") and id(parameter) not in rows
        (matrices if decays else rest).append(parameter)
    return [{"params": matrices}, {"params": rest, "weight_decay": 0.0}]
