"""A frozen trunk: only parts of a network are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dit.model.adapters.adapter import Adapter, register_adapter


@register_adapter("freeze")
@dataclass(frozen=True)
class Freeze(Adapter):
    """Trains the weights whose names begin with one of `train`, such as "final" or "blocks.11", and no others."""

    train: Sequence[str] = ("final",)

    def apply(self, network: nn.Module) -> None:
        names = [name for name, _ in network.named_parameters()]
        for start in self.train:
            if not any(name == start or name.startswith(f"{start}.") for name in names):
                parts = ", ".join(name for name, _ in network.named_children())
                raise ValueError(f"adapter.train names {start}, which begins no weight of the network of {parts}")
        for name, weight in network.named_parameters():
            weight.requires_grad_(any(name == start or name.startswith(f"{start}.") for start in self.train))
