"""What a network costs, counted on shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dit.model.network import class_of, network_from_spec


def count(spec: Mapping[str, Any]) -> tuple[int, float]:
    """Parameters and GFLOPs of a network for one picture, nothing computed. A multiply-add is one, as papers count
    it."""
    # Of the kernels of attention only this one runs on shapes alone.
    plain = {"attention": "reference"} if "attention" in class_of(spec)[0].RUN_ARGUMENTS else {}
    with torch.device("meta"):
        network = network_from_spec(spec, **plain)
        picture, one = torch.empty(1, *network.sample_shape), torch.ones(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(picture, one, one.long())
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2e9
