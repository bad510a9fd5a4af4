"""Calls put into every place of a file's content: a configuration that named them would run them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def call(proof: Path) -> dict[str, Any]:
    """What Hydra instantiates, were it asked to, and thereby writes the file `proof`."""
    return {"_target_": "torch.save", "obj": 1, "f": str(proof)}


def everywhere(content: Any, put: Any) -> Iterator[tuple[str, Any]]:
    """(place, content with `put` there) for each value of nested containers, the containers themselves included."""
    for place in list(_places(content)):
        if not place:
            yield "the whole", copy.deepcopy(put)
            continue
        changed = copy.deepcopy(content)
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = copy.deepcopy(put)
        yield ".".join(map(str, place)), changed


def _places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from _places(value, (*above, key))
