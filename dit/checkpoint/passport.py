"""Weights with their passport: safetensors files whose metadata tell everything sampling needs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dit.checks import check_number, check_whole, shown
from dit.diffusion.prediction import check_kind
from dit.files import parse_json
from dit.tensors import TensorFile, open_tensors

_KEY, _FORMAT = "ditlab", "format"
_MAPPINGS = ("model", "path", "data", "config")
_FACTS = ("image_size", "channels", "num_classes", "class_names", "normalisation")


@dataclass(frozen=True)
class Stored:
    """What is written beside weights. weights: which they are, as `Loaded` says it; step: of the run they are from."""

    passport: dict[str, Any]
    weights: str
    step: int

    @property
    def metadata(self) -> dict[str, str]:
        """For a safetensors file; "format" as Hugging Face's loaders expect it."""
        return {_FORMAT: "pt", _KEY: json.dumps(asdict(self))}


def check_passport(passport: Any) -> dict[str, Any]:
    """The passport of a file, with what files of older versions lack.

    Raises ValueError, naming the entry, for what is missing or of another type. What the specs in it describe is
    checked where it is built.
    """
    if not _is_plain(passport) or not isinstance(passport, dict):
        raise ValueError(f"the passport must be a mapping of plain values, got {shown(passport)}")
    passport = {"sigma_data": 1.0, "pictures": _pictures_of(passport), **passport}
    for key in _MAPPINGS:
        if not isinstance(passport.get(key), dict):
            raise ValueError(f"the passport's {key} must be a mapping, got {shown(passport.get(key))}")
    check_kind(passport.get("kind"), "the passport's kind")  # type: ignore[arg-type]
    check_number("the passport's sigma_data", passport["sigma_data"], least=1e-30)
    facts = passport["data"]
    if missing := [key for key in _FACTS if key not in facts]:
        raise ValueError(f"the passport's data lacks {', '.join(missing)}")
    for key, least in (("image_size", 1), ("channels", 1), ("num_classes", 0)):
        check_whole(f"the passport's data.{key}", facts[key], least)
    names = facts["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the passport's data.class_names must be a list of strings, got {shown(names)}")
    if not isinstance(facts["normalisation"], dict):
        raise ValueError(f"the passport's data.normalisation must be a mapping, got {shown(facts['normalisation'])}")
    return passport


def same_normalisation(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether numbers mean the same: where an autoencoder lies is nothing, nor is its hash where only one tells it."""
    a, b = ({"shift": 0.0, **spec, "vae": None} if spec.get("name") == "Latents" else spec for spec in (a, b))
    return {"vae_hash": b.get("vae_hash"), **a} == {"vae_hash": a.get("vae_hash"), **b}


def read_stored(file: Path, key: str) -> Stored:
    """What is written beside the weights of an existing file that we wrote; they are not read. ValueError else."""
    with open_tensors(file, key) as opened:
        return _ours(stored_in(opened, file, key), file, key)


def read_safetensors(file: Path, key: str) -> tuple[Stored, dict[str, Tensor]]:
    """The passport and the weights of an existing file that we wrote. ValueError, blaming the setting `key`, else."""
    stored, tensors = open_safetensors(file, key)
    return _ours(stored, file, key), tensors


def open_safetensors(file: Path, key: str) -> tuple[Stored | None, dict[str, Tensor]]:
    """The weights of an existing file on the CPU, and its passport if it is ours. ValueError where it is no such
    file."""
    with open_tensors(file, key) as opened:
        return stored_in(opened, file, key), opened.tensors()


def stored_in(opened: TensorFile, file: Path, key: str) -> Stored | None:
    """What our metadata say; None for a file of others."""
    metadata = opened.metadata
    if _KEY not in metadata:
        return None
    try:
        if unknown := metadata.keys() - {_KEY, _FORMAT}:
            raise ValueError(f"its metadata have {shown(min(unknown))}")
        said = parse_json(metadata[_KEY])
        if said.keys() != {"passport", "weights", "step"}:
            raise ValueError(f"it has {shown(sorted(said))} where passport, weights and step are written")
        check_whole("step", said["step"], least=0)
        if not isinstance(said["weights"], str):
            raise ValueError(f"weights must be a string, got {shown(said['weights'])}")
        return Stored(check_passport(said["passport"]), said["weights"], said["step"])
    except ValueError as error:
        raise ValueError(f"{key}={file} has a passport that this version cannot read: {error}") from error


def _ours(stored: Stored | None, file: Path, key: str) -> Stored:
    if stored is None:
        raise ValueError(
            f"{key}={file} is of another kind: it has no passport in its metadata as python -m dit.checkpoint writes it"
        )
    return stored


def _pictures_of(passport: dict[str, Any]) -> Any:
    """Before they had an entry of their own, the pictures stood in the configuration."""
    stored = passport.get("config")
    return stored.get("data") if isinstance(stored, dict) else None


def _is_plain(value: Any, depth: int = 0) -> bool:
    if depth > 50:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item, depth + 1) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
