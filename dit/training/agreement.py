"""What the network, the pictures and the loss of a run must agree on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.model import Network, name_of
from dit.model.compiling import GRAPHS
from dit.objectives import Objective


def check_fit(network: Network, facts: dict[str, Any], objective: Objective) -> None:
    """Raises ValueError, naming the key, unless the network fits the pictures' `facts` and the objective. The
    configuration interpolates these keys; whoever types them must type the same."""
    name_of(type(network))
    if network.learns_variance and not objective.learns_variance:
        raise ValueError("model.learn_variance=true needs loss=hybrid_vlb; no other trains that half of the output")
    if objective.learns_variance and not network.learns_variance:
        raise ValueError("loss=hybrid_vlb trains a variance and needs model.learn_variance=true; the output has none")
    channels, height, width = network.sample_shape
    if height != width:
        raise ValueError(f"model must be of square pictures, got {height} x {width}")
    given = {"image_size": height, "channels": channels, "num_classes": network.num_classes}
    for key, value in given.items():
        allowed = [facts[key]] + ([0] if key == "num_classes" else [])
        if value not in allowed:
            raise ValueError(f"model.{key} must be {' or '.join(map(str, allowed))}, as the pictures are, got {value}")
    for name in sorted(facts["conditions"].keys() | network.conditions.keys()):
        told = facts["conditions"].get(name)
        taken = list(network.conditions[name].shape) if name in network.conditions else None
        if told != taken:
            raise ValueError(
                f"condition {name}: the pictures come with {'none' if told is None else told}, the model takes "
                f"{'none' if taken is None else taken}"
            )


def check_dropout(dropout: Mapping[str, float], conditions: Mapping[str, Any]) -> None:
    """Raises ValueError unless every rate is in [0, 1] and of the class or one of `conditions`."""
    for name, rate in dropout.items():
        if name not in (allowed := ["class", *sorted(conditions)]):
            raise ValueError(f"dropout.{name} is of nothing that the network is told; it can be {', '.join(allowed)}")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ValueError(f"dropout.{name} must be in [0, 1], got {rate!r}")


def check_graphs(compile_mode: str | None, accumulated: int) -> None:
    """Raises ValueError where gradients of several batches would be added in the memory of one CUDA graph."""
    if compile_mode == GRAPHS and accumulated > 1:
        raise ValueError(f"compile_mode={GRAPHS} needs trainer.accumulate_grad_batches=1, got {accumulated}")
