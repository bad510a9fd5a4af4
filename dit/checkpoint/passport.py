"""Weights with their passport: safetensors files whose metadata tell everything sampling needs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

_KEY = "ditlab"


@dataclass(frozen=True)
class Stored:
    """What is written beside weights. weights: which they are, as `Loaded` says it; step: of the run they are from."""

    passport: dict[str, Any]
    weights: str
    step: int

    @property
    def metadata(self) -> dict[str, str]:
        """For a safetensors file; "format" as Hugging Face's loaders expect it."""
        return {"format": "pt", _KEY: json.dumps(asdict(self))}


def same_normalisation(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether numbers mean the same: where an autoencoder lies is nothing, nor is its hash where only one tells it."""
    a, b = ({"shift": 0.0, **spec, "vae": None} if spec["name"] == "Latents" else spec for spec in (a, b))
    return {"vae_hash": b.get("vae_hash"), **a} == {"vae_hash": a.get("vae_hash"), **b}


def read_stored(file: Path, key: str) -> Stored:
    """What is written beside the weights of an existing file that we wrote; they are not read. ValueError else."""
    with _opened(file, key) as opened:
        return _ours(_stored(opened, file, key), file, key)


def read_safetensors(file: Path, key: str) -> tuple[Stored, dict[str, Tensor]]:
    """The passport and the weights of an existing file that we wrote. ValueError, blaming the setting `key`, else."""
    stored, tensors = open_safetensors(file, key)
    return _ours(stored, file, key), tensors


def open_safetensors(file: Path, key: str) -> tuple[Stored | None, dict[str, Tensor]]:
    """The weights of an existing file on the CPU, and its passport if it is ours. ValueError where it is no such
    file."""
    with _opened(file, key) as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return _stored(opened, file, key), tensors


@contextmanager
def _opened(file: Path, key: str) -> Iterator[safe_open]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except PermissionError as error:
        raise ValueError(f"{key}={file} cannot be read: {error.strerror}") from error
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{key}={file} cannot be read ({file.stat().st_size:,} bytes): it is truncated or no safetensors file"
        ) from error


def _stored(opened: safe_open, file: Path, key: str) -> Stored | None:
    metadata = opened.metadata() or {}
    if _KEY not in metadata:
        return None
    try:
        return Stored(**json.loads(metadata[_KEY]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key}={file} has a passport that this version cannot read: {error}") from error


def _ours(stored: Stored | None, file: Path, key: str) -> Stored:
    if stored is None:
        raise ValueError(
            f"{key}={file} is of another kind: it has no passport in its metadata as python -m dit.checkpoint writes it"
        )
    return stored
