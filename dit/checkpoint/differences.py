"""How the tensors of a file differ from those a network has: listed, never skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_SHOWN = 4  # of each sort; a network has hundreds


def check_names(
    file: Path | str, what: str, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """ValueError, listing what is unknown, missing or of another shape, unless `tensors` are those `expected`."""
    unknown = [name for name in tensors if name not in expected]
    missing = [name for name in expected if name not in tensors]
    shapes = [
        f"shape of {name} is {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    said = [f"unknown {_first(unknown)}"] * bool(unknown) + [f"missing {_first(missing)}"] * bool(missing)
    said += [_first(shapes, "; ")] * bool(shapes)
    if said:
        raise ValueError(f"{file} is no {what}: {'; '.join(said)}")


def check_table(file: Path, what: str, name: str, found: Tensor, expected: Tensor) -> None:
    """ValueError unless `found` is the fixed table `expected`, which is none of the weights."""
    if found.shape != expected.shape:
        raise ValueError(f"{file} is no {what}: {name} is of shape {list(found.shape)}, not {list(expected.shape)}")
    # Some files are kept in half precision.
    tolerance = max(1e-5, torch.finfo(found.dtype).eps) if found.is_floating_point() else 0
    if not float((found.double() - expected.double()).abs().max()) <= tolerance:
        raise ValueError(f"{file} is no {what}: {name} is not the fixed table")


def _first(items: Iterable[str], separator: str = ", ") -> str:
    items = list(items)
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return separator.join(items[:_SHOWN]) + more
