"""What a DiT costs, counted on shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dit.model.dit import DiT


def count(**arguments: Any) -> tuple[int, float]:
    """Parameters and GFLOPs of a DiT for one picture, nothing computed. A multiply-add is one, as papers count it."""
    with torch.device("meta"):
        network = DiT(**{**arguments, "attention": "reference"})
        picture, one = torch.empty(1, network.channels, network.image_size, network.image_size), torch.ones(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(picture, one, one.long())
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2e9
