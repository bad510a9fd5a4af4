"""WHAT A NETWORK IS, and the names by which configurations and files speak of one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from dit.checks import check_arguments, shown
from dit.model.compiling import compile_whole
from dit.registry import Registry

ENTRY_POINTS = "ditlab.networks"
_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Its units, if it has any."""
    return list(getattr(network, "blocks", ()))


class Condition(NamedTuple):
    """What a network is told of a picture beside its class. shape: of one picture's. built_in: whether the network
    knows what its absence is by construction, so that it may be left out though training never did."""

    shape: tuple[int, ...]
    built_in: bool = False


class Output(NamedTuple):
    """What a network returns where an objective asked for more than its prediction.

    native: [B, *D], the prediction; features: tensors [B, ...] by name; losses: of the network itself, [B] each, by
    name.
    """

    native: Tensor
    features: dict[str, Tensor]
    losses: dict[str, Tensor]


class Network(nn.Module):
    """A network that can be trained, saved, loaded, sampled and exported here; see docs/your_network.md.

    A subclass is registered by name, sets `sample_shape` and `num_classes`, and computes `forward(x [B, C, H, W], time
    [B], labels [B], **conditions)` -> [B, C, H, W], or twice the channels where `learns_variance`. Its constructor
    takes plain values, which `arguments` remembers, and from which it is built again.

    sample_shape: (C, H, W). num_classes: real classes, labels 0 ... num_classes - 1, and `null_label` for "no class"; 0
    is unconditional. conditions: what else it is told of a picture, by name; `forward` takes each as [B, *shape], and
    `absent`, a mapping from names to [B] bool, tells rows of which one is not told: there the network puts its own
    null, as it does everywhere for a condition that is not given. features: names of tensors that it returns, in an
    `Output`, where `forward(..., features=names)` asks. blocks: units that are recomputed and sharded one at a time.
    """

    RUN_ARGUMENTS: ClassVar[tuple[str, ...]] = ()  # how a run computes the same numbers; no part of the spec

    LABEL_TABLE: ClassVar[str | None] = None  # the weight whose rows are classes, the last one "no class"

    sample_shape: tuple[int, int, int]
    num_classes: int
    arguments: dict[str, Any]
    blocks: Sequence[nn.Module] | nn.ModuleList  # none where it is not set

    def __new__(cls, *args: Any, **kwargs: Any) -> Network:
        network = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            given = signature.bind(None, *args, **kwargs)
        except TypeError:  # a copy, which has its arguments from the original; or a mistake that the constructor tells
            return network
        given.apply_defaults()
        _, *named = signature.parameters.values()  # without self
        arguments = {each.name: given.arguments[each.name] for each in named if each.kind not in _VARIADIC}
        for each in named:
            arguments |= given.arguments[each.name] if each.kind is each.VAR_KEYWORD else {}
        network.__dict__["arguments"] = {key: v for key, v in arguments.items() if key not in cls.RUN_ARGUMENTS}
        return network

    @property
    def spec(self) -> dict[str, Any]:
        """{"name": ..., **arguments} in plain containers. ValueError for a class that is not registered."""
        return {"name": name_of(type(self)), **self.arguments}

    @property
    def null_label(self) -> int:
        """The label of "no class"."""
        return self.num_classes

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {}

    @property
    def features(self) -> tuple[str, ...]:
        return ()

    @classmethod
    def check_size(cls, arguments: Mapping[str, Any], tensors: int) -> None:
        """ValueError for arguments, out of a file of so many tensors, that would take time or memory beyond it."""

    @property
    def learns_variance(self) -> bool:
        return False

    def compile_in_place(self, backend: str, mode: str | None = None) -> None:
        """torch.compile with `backend` and a mode, see `check_compile`; names of weights stay. As a whole, where a
        subclass does not say otherwise.

        What this process compiled before is dropped, and compiles again where it is still called.
        """
        # PyTorch compiles one function for 8 kinds of inputs at most and then raises, also if 8 networks had one each.
        torch.compiler.reset()
        compile_whole(self, backend, mode)


_REGISTRY = Registry("model", '@register("...") of dit.model, where it is a subclass of Network,')
register = _REGISTRY.register


def name_of(network: type) -> str:
    """The name that exactly this class is registered by. ValueError if there is none."""
    _load_entry_points()
    return _REGISTRY.name_of(network)


def known_networks() -> Mapping[str, type[Network]]:
    """All that are registered, those of installed packages included (entry points of the group ditlab.networks)."""
    _load_entry_points()
    return _REGISTRY


def network_from_spec(spec: Any, what: str = "network", **run: Any) -> Network:
    """The network that `spec` describes. what: begins the sentence of a mistake; run: arguments that are no part of a
    spec.

    Raises ValueError for an unknown name, an unknown or missing argument, and one of another type.
    """
    network, arguments = class_of(spec, what)
    return network(**arguments, **run)


def class_of(spec: Any, what: str = "network") -> tuple[type[Network], dict[str, Any]]:
    """The class a spec names and its arguments, which fit its constructor; nothing is built. ValueError as above."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ValueError(f"{what} must be a mapping with a name, got {shown(spec)}")
    known = known_networks()
    if spec["name"] not in known:
        raise ValueError(
            f"{what} is named {shown(spec['name'])}, of which nothing is known here; known are "
            f"{', '.join(sorted(known))}. Those of your own are made known by imports=[module] (docs/your_network.md)"
        )
    network, arguments = known[spec["name"]], {key: value for key, value in spec.items() if key != "name"}
    if own := sorted(arguments.keys() & set(network.RUN_ARGUMENTS)):
        raise ValueError(f"{what} does not take {', '.join(own)}, which {'is' if len(own) == 1 else 'are'} a run's")
    check_arguments(f"{what} {spec['name']}", network, arguments)
    return network, arguments


@cache
def _load_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINTS):
        point.load()
