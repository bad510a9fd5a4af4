"""Weights with their metadata, as JSON in the header of a safetensors file, which tell everything sampling needs."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dit.checkpoint.metadata import Metadata
from dit.checks import check_whole, printable, shown
from dit.files import parse_json
from dit.tensors import TensorFile, open_tensors

_KEY, _FORMAT = "ditlab", "format"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredMetadata:
    """What is written beside weights. weights: which they are, as `Model` says it; step: of the run they are from."""

    metadata: Metadata
    weights: str
    step: int

    @property
    def header(self) -> dict[str, str]:
        """Of a safetensors file; "format" as Hugging Face's loaders expect it."""
        said = {"metadata": self.metadata.to_dict(), "weights": self.weights, "step": self.step}
        return {_FORMAT: "pt", _KEY: json.dumps(said)}


def read_stored(file: Path, key: str) -> StoredMetadata:
    """What is written beside the weights of an existing file that we wrote; they are not read. ValueError else."""
    with open_tensors(file, key) as opened:
        return _ours(stored_in(opened, file, key), file, key)


def read_safetensors(file: Path, key: str) -> tuple[StoredMetadata, dict[str, Tensor]]:
    """The metadata and the weights of an existing file that we wrote. ValueError, blaming the setting `key`, else."""
    stored, tensors = open_safetensors(file, key)
    return _ours(stored, file, key), tensors


def open_safetensors(file: Path, key: str) -> tuple[StoredMetadata | None, dict[str, Tensor]]:
    """The weights of an existing file on the CPU, and its metadata if it is ours. ValueError where it is no such
    file."""
    with open_tensors(file, key) as opened:
        return stored_in(opened, file, key), opened.tensors()


def stored_in(opened: TensorFile, file: Path, key: str) -> StoredMetadata | None:
    """What the header says; None for a file of others."""
    header = opened.metadata
    if _KEY not in header:
        return None
    if not opened.checked:
        _log.warning(
            "%s has no digests, as older versions wrote it: damage in it goes unnoticed; "
            "python -m dit.checkpoint export writes a file that has them",
            printable(str(file)),
        )
    try:
        if unknown := header.keys() - {_KEY, _FORMAT}:
            raise ValueError(f"its header has {shown(min(unknown))}")
        said = parse_json(header[_KEY])
        metadata = said.pop("metadata", None) or said.pop("passport", None)  # of older versions
        if said.keys() != {"weights", "step"}:
            raise ValueError(f"it has {shown(sorted(said))} beside metadata, where weights and step are written")
        check_whole("step", said["step"], least=0)
        if not isinstance(said["weights"], str):
            raise ValueError(f"weights must be a string, got {shown(said['weights'])}")
        return StoredMetadata(Metadata.from_dict(metadata), said["weights"], said["step"])
    except ValueError as error:
        raise ValueError(f"{key}={file} has metadata that this version cannot read: {error}") from error


def _ours(stored: StoredMetadata | None, file: Path, key: str) -> StoredMetadata:
    if stored is None:
        raise ValueError(
            f"{key}={file} is of another kind: its header has no metadata as python -m dit.checkpoint writes them"
        )
    return stored
