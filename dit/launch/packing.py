"""A configuration as JSON, exact to its flags, and back: what crosses processes is data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf


def dumps(value: Any) -> bytes:
    """JSON on one line, in which keys of dicts stay numbers and floats may be inf and nan.

    Raises ValueError for anything but None, bool, int, float, str, lists and dicts.
    """
    return json.dumps(_plain(value)).encode()


def loads(content: bytes) -> Any:
    """What `dumps` was given. Raises ValueError, KeyError or TypeError if `content` is nothing it has written."""
    return json.loads(content, object_hook=lambda entry: {key: value for key, value in entry["items"]})  # noqa: C416


def taken_apart(config: DictConfig, enum_to_str: bool = False) -> dict[str, Any]:
    """The unresolved content, the flags (struct, readonly) of each node, and what `use_cache` resolvers have said.

    enum_to_str: members of enums, which are no plain data, become their names.
    """
    flags = [[path, node._metadata.flags] for path, node in _containers(config) if node._metadata.flags]
    cache = [
        [name, list(arguments), value]
        for name, said in OmegaConf.get_cache(config).items()
        for arguments, value in said.items()
    ]
    content = OmegaConf.to_container(config, resolve=False, enum_to_str=enum_to_str)
    return {"content": content, "flags": flags, "cache": cache}


def put_together(parts: dict[str, Any], types: Mapping[str, type] | None = None) -> DictConfig:
    """The configuration of `taken_apart`. types: the dataclasses of those keys at the top that had one."""
    config = OmegaConf.create(parts["content"])
    if not isinstance(config, DictConfig):
        raise TypeError("the content of a configuration is a dict")
    for key, kind in (types or {}).items():
        typed = OmegaConf.structured(kind)
        OmegaConf.set_struct(typed, False)  # keys that were added with a +
        typed.merge_with(config[key])
        for absent in set(typed) - set(config[key]):
            del typed[absent]  # Hydra leaves its `defaults` out of what it has composed
        OmegaConf.set_struct(typed, None)
        config[key] = typed
    nodes = {tuple(path): node for path, node in _containers(config)}
    for path, flags in parts["flags"]:
        nodes[tuple(path)]._set_flag(list(flags), list(flags.values()))
    for name, arguments, value in parts["cache"]:
        OmegaConf.get_cache(config)[name][tuple(arguments)] = value
    return config


def _containers(node: Container, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Container]]:
    """The node and all dicts and lists in it, each with the keys that lead there."""
    yield path, node
    if node._is_none() or node._is_missing() or node._is_interpolation():
        return
    keys = range(len(node)) if isinstance(node, ListConfig) else list(node.keys())  # type: ignore[attr-defined]
    for key in keys:
        child = node._get_node(key)  # type: ignore[attr-defined]
        if isinstance(child, Container):
            yield from _containers(child, (*path, key))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {"items": [[_plain(key), _plain(entry)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ValueError(
        f"the configuration of several processes may hold text, numbers, lists and dicts, got {value!r} "
        f"({type(value).__name__})"
    )
