"""Tensors on disk: safetensors files with a digest of each tensor and of their metadata, checked when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dit.files import parse_json, replaced

DIGESTS, METADATA_DIGEST = "digests", "digest"  # our entries of the metadata


def save_tensors(
    file: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], key: str | None = None
) -> None:
    """Write a safetensors file with `metadata` and the digests of all that is in it.

    key: the setting to blame. Raises ValueError, naming `file`, if it cannot be written; nothing is left then.
    """
    assert not {DIGESTS, METADATA_DIGEST} & metadata.keys(), "our own entries"
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checked = {**metadata, DIGESTS: json.dumps({name: _digest(name, tensor) for name, tensor in stored.items()})}
    with replaced(file, key) as unfinished:
        save_file(stored, unfinished, {**checked, METADATA_DIGEST: _digest_of_metadata(checked)})


class TensorFile:
    """An open safetensors file, of which tensors are read one at a time. metadata: but for the digests; names: of the
    tensors; checked: whether it holds digests, as files that `save_tensors` wrote do."""

    def __init__(self, opened: safe_open, said: str):
        self._opened, self._said = opened, said
        self.metadata: dict[str, str] = dict(opened.metadata() or {})
        self.names: list[str] = list(opened.keys())
        self.checked = DIGESTS in self.metadata or METADATA_DIGEST in self.metadata
        self._digests = self._checked_digests() if self.checked else {}

    def _checked_digests(self) -> dict[str, str]:
        digest = self.metadata.pop(METADATA_DIGEST, None)
        if digest != _digest_of_metadata(self.metadata):
            raise ValueError(f"{self._said} is damaged: its metadata are not what was written")
        digests = parse_json(self.metadata.pop(DIGESTS))
        if digests.keys() != set(self.names):
            raise ValueError(f"{self._said} is damaged: its tensors are not those that were written")
        return digests

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, which is not read."""
        return tuple(self._opened.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """Read one, on the CPU. Raises ValueError if it is not what was written."""
        tensor = self._opened.get_tensor(name)
        if self.checked and _digest(name, tensor) != self._digests[name]:
            raise ValueError(f"{self._said} is damaged: {name} is not what was written")
        return tensor

    def tensors(self) -> dict[str, Tensor]:
        """Read all."""
        return {name: self.tensor(name) for name in self.names}


@contextmanager
def open_tensors(file: str | Path, key: str | None = None) -> Iterator[TensorFile]:
    """Open an existing safetensors file; its header is read and checked.

    key: the setting to blame. Raises ValueError if it cannot be read, is no safetensors file, or is damaged.
    """
    file = Path(file)
    said = f"{key}={file}" if key else str(file)
    try:
        with safe_open(file, framework="pt") as opened:
            yield TensorFile(opened, said)
    except PermissionError as error:
        raise ValueError(f"{said} cannot be read: {error.strerror}") from error
    except (SafetensorError, OSError) as error:
        size = f" ({file.stat().st_size:,} bytes)" if file.is_file() else ""
        raise ValueError(f"{said} cannot be read{size}: it is truncated or no safetensors file") from error


def _digest(name: str, tensor: Tensor) -> str:
    content = hashlib.blake2b(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode(), digest_size=8)
    content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _digest_of_metadata(metadata: Mapping[str, str]) -> str:
    return hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=8).hexdigest()
