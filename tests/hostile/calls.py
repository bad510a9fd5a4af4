"""Calls put into every place of a file's content: a configuration that named them would run them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def call(proof: Path) -> dict[str, Any]:
    """What Hydra instantiates, were it asked to, and thereby writes the file `proof`."""
    return {"_target_": "torch.save", "obj": 1, "f": str(proof)}


def everywhere(content: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """(place, content with `value` there) for each value of nested containers, the containers themselves included."""
    for place in list(places(content)):
        yield ".".join(map(str, place)) or "the whole", put(content, place, value)


def places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value of nested containers, beginning with the whole: ()."""
    yield above
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from places(value, (*above, key))


def put(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested containers with `value` at `place`."""
    if not place:
        return copy.deepcopy(value)
    changed = copy.deepcopy(content)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = copy.deepcopy(value)
    return changed
