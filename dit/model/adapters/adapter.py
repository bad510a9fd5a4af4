"""WHAT IS PUT INTO A NETWORK that exists: after it is built, and before weights are loaded or trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any

from torch import nn

from dit.checks import built
from dit.registry import Registry


class Adapter(ABC):
    """A dataclass of plain values, registered by name, that changes a network in place: adds parts to it, or says which
    of its weights are trained (`requires_grad`). Checkpoints record its spec, and apply it again before they load."""

    @property
    def spec(self) -> dict[str, Any]:
        """{"name": ..., **arguments} in plain containers. ValueError for a class that is not registered."""
        return {"name": _REGISTRY.name_of(type(self)), **asdict(self)}  # type: ignore[call-overload]

    @abstractmethod
    def apply(self, network: nn.Module) -> None:
        """Changes `network`, in place. Raises ValueError where it does not fit."""


_REGISTRY = Registry("adapter", '@register_adapter("...") of dit.model.adapters')
register_adapter = _REGISTRY.register


def adapter_from_spec(spec: Any, what: str = "adapter") -> Adapter:
    """What `spec` describes. ValueError, beginning with `what`, for an unknown name and arguments that do not fit."""
    return built(what, spec, _REGISTRY)


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that training moves, by name."""
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
