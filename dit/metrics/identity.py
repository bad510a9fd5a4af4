"""What tells samples from others: the networks behind them, how these compute, and what of a sampler nothing tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from dit.diffusion import Denoiser, GaussianPath
from dit.metrics.features import digest_of
from dit.solvers import Denoise, Grid, Guidance, LinearScale, Sampler, Solver


def network_of(denoiser: Denoise) -> dict[str, Any]:
    """Of a denoiser, all that changes what it predicts: a digest of its weights, its spec, its kind."""
    network = getattr(denoiser, "network", None)
    return {
        "digest": digest_of(network) if isinstance(network, nn.Module) else None,
        "spec": getattr(network, "spec", None),
        **{key: getattr(denoiser, key, None) for key in ("kind", "sigma_data")},
    }


def networks_named(guidance: Guidance, config: Any) -> dict[str, dict[str, Any]]:
    """What a protocol says of the networks that a rule holds, by name: a digest of the weights, and the file and the
    kind of weights if `config`, the rule's configuration, names them."""
    named = dict(_named(config))
    return {
        name: {
            **{key: named.get(name, {}).get(key) for key in ("file", "weights")},
            "digest": network_of(net)["digest"],
        }
        for name, net in guidance.networks.items()
    }


def _named(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Mappings with a file, by their keys, at any depth."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if isinstance(value, Mapping) and "file" in value:
                yield key, value
            yield from _named(value)


def check_told(sampler: Sampler, processes: int) -> bool:
    """Whether samples of `sampler` may be kept for another command: not if it holds a function, a network or a class of
    others, of which nothing tells whether it is the same as before.

    Raises ValueError if several processes should share samples that may not be kept.
    """
    untold = next(
        (which for field in fields(sampler) for which in _untold(getattr(sampler, field.name), field.name)), None
    )
    if untold is not None and processes > 1:
        raise ValueError(
            f"{untold} is a function or a class of your own, which nothing tells from another of its name, so that "
            "processes cannot share samples of it: score it with trainer.devices=1"
        )
    return untold is None


def _untold(thing: Any, where: str) -> Iterator[str]:
    ours = type(thing).__module__.partition(".")[0] == "dit"
    if thing is None or isinstance(thing, bool | int | float | str) or (ours and isinstance(thing, GaussianPath)):
        return
    if isinstance(thing, list | tuple):
        for each in thing:
            yield from _untold(each, where)
    elif ours and isinstance(thing, Denoiser):  # known by its weights
        if not isinstance(thing.network, nn.Module) or type(thing.network).__module__.partition(".")[0] != "dit":
            yield where
    elif ours and isinstance(thing, Solver | Guidance | Grid | LinearScale):  # as `describe` has them
        for field in fields(thing) if is_dataclass(thing) else ():
            yield from _untold(getattr(thing, field.name), f"{where}.{field.name}")
    else:
        yield where
