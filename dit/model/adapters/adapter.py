"""WHAT IS PUT INTO A NETWORK that exists: after it is built, and before weights are loaded or trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from torch import nn

from dit.checks import built


class Adapter(ABC):
    """A dataclass of plain values, registered by name, that changes a network in place: adds parts to it, or says which
    of its weights are trained (`requires_grad`). Checkpoints record its spec, and apply it again before they load."""

    @property
    def spec(self) -> dict[str, Any]:
        """{"name": ..., **arguments} in plain containers. ValueError for a class that is not registered."""
        for name, known in _REGISTRY.items():
            if known is type(self):
                return {"name": name, **asdict(self)}  # type: ignore[call-overload]
        kind = type(self)
        raise ValueError(
            f"adapter is a {kind.__module__}.{kind.__qualname__}, which no checkpoint could name: write "
            f'@register_adapter("...") of dit.model.adapters above it, and start with imports=[{kind.__module__}]'
        )

    @abstractmethod
    def apply(self, network: nn.Module) -> None:
        """Changes `network`, in place. Raises ValueError where it does not fit."""


_Class = TypeVar("_Class", bound=type[Adapter])
_REGISTRY: dict[str, type[Adapter]] = {}


def register_adapter(name: str) -> Callable[[_Class], _Class]:
    """Above a subclass of `Adapter`: the name by which files know it. ValueError where it is another class's."""

    def decorate(adapter: _Class) -> _Class:
        there = _REGISTRY.get(name)
        if there is not None and (there.__module__, there.__qualname__) != (adapter.__module__, adapter.__qualname__):
            raise ValueError(f"adapter {name} is {there.__module__}.{there.__qualname__} already; choose another name")
        _REGISTRY[name] = adapter
        return adapter

    return decorate


def adapter_from_spec(spec: Any, what: str = "adapter") -> Adapter:
    """What `spec` describes. ValueError, beginning with `what`, for an unknown name and arguments that do not fit."""
    registry: Mapping[str, Callable[..., Adapter]] = _REGISTRY
    return built(what, spec, registry)


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that training moves, by name."""
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
