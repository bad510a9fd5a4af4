"""One training step (forward, backward, AdamW), the same for every network, precision and way to compute it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.models import call_of

ALIGNED = 64  # numbers: where tensors of their own would begin, a vector or more apart


class Moments:
    """Memory for the moments of AdamW that the optimisers of all arms take turns in: with their own, XL would not fit.

    A step costs the same, whatever the moments are.
    """

    def __init__(self, networks: list[nn.Module]):
        sizes = [sum(-(-p.numel() // ALIGNED) * ALIGNED for p in network.parameters()) for network in networks]
        device = next(networks[0].parameters()).device
        self.first, self.second = (torch.zeros(max(sizes), device=device) for _ in range(2))

    def adamw(self, network: nn.Module, **settings: Any) -> torch.optim.AdamW:
        optimizer, start = torch.optim.AdamW(network.parameters(), lr=1e-5, **settings), 0
        for p in network.parameters():
            count = p.numel()
            first, second = (flat[start : start + count].view_as(p) for flat in (self.first, self.second))
            step = torch.zeros((), device=p.device if optimizer.defaults["fused"] else "cpu")
            optimizer.state[p] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
            start += -(-count // ALIGNED) * ALIGNED
        return optimizer


def autocast(device: str, precision: str):
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()


def training_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor], precision: str
) -> Callable[[], None]:
    """precision: bf16 is autocast around the forward pass, as the trainer's bf16-mixed."""
    call, (x, time, labels) = call_of(network), batch
    network.train()

    def step() -> None:
        optimizer.zero_grad()
        with autocast(x.device.type, precision):
            out = call(x, time, labels)
        (out.float() - x).square().mean().backward()
        optimizer.step()

    return step


def check_finite(network: nn.Module) -> None:
    """AssertionError if the steps have broken the network: then they have not done the work of training."""
    assert all(bool(t.isfinite().all()) for t in chain(network.parameters(), network.buffers())), "not finite"
