"""The plain containers of a training checkpoint: its sums, unpickled without a call, in the form of train.py."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.checkpoint.metadata import Metadata
from dit.checks import check_whole, shown

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # what a run keeps: the newest checkpoint, and the one before

_ENTRIES = ("state_dict", "ema")


def check_resume(file: str | Path, max_steps: int) -> None:
    """ValueError, before anything else is built, where `file` is no checkpoint or its run is already over."""
    step = read(file, "resume")["global_step"]
    if step >= max_steps:
        raise ValueError(f"trainer.max_steps={max_steps} must exceed step {step}, which resume={file} has reached")


def read(file: str | Path, key: str = "checkpoint") -> dict[str, Any]:
    """The plain containers of a checkpoint, on the CPU. ValueError, blaming the setting `key`, if it is not ours."""
    file = Path(file).expanduser()
    check_file(file, key)
    if file.suffix == ".safetensors":
        raise ValueError(f"{key}={file} holds weights and no run; give the path of a .ckpt file that train.py wrote")
    contents = unpickled(file, key)
    known = isinstance(contents, dict) and all(entry in contents for entry in _ENTRIES)
    if not known or not ("metadata" in contents or "passport" in contents):
        raise ValueError(
            f"{key}={file} is of another kind: it has no {', '.join(_ENTRIES)}, metadata as train.py writes them; "
            "files of others are made ours by python -m dit.checkpoint import"
        )
    try:
        contents["metadata"] = Metadata.in_checkpoint(contents)
        _check_weights(contents)
    except ValueError as error:
        raise ValueError(f"{key}={file} is damaged or of another version: {error}") from error
    return contents


def _check_weights(contents: dict[str, Any]) -> None:
    check_whole("global_step", contents.get("global_step", 0), least=0)
    averages = contents["ema"].get("averages") if isinstance(contents["ema"], dict) else None
    if not isinstance(averages, dict) or not averages:
        raise ValueError(f"its ema must hold averages by name, got {shown(averages)}")
    version = contents.get("pytorch-lightning_version", "2.0")
    if not isinstance(version, str) or not re.fullmatch(r"\d+(\.\d+)*\w*", version):
        raise ValueError(f"its version of Lightning must be text as 2.6.6, got {shown(version)}")
    run = contents.get("run", {})
    if not isinstance(run, dict):
        raise ValueError(f"its run must be values by name, got {shown(run)}")
    shared = run.get("shared")
    if shared is not None and not (
        isinstance(shared, list) and len(shared) == 2 and all(type(n) is int for n in shared)
    ):
        raise ValueError(f"its run's shared must be two whole numbers, got {shown(shared)}")
    check_whole("its run's rollbacks", run.get("rollbacks", 0), least=0)
    if not isinstance(run.get("validation_loss"), float | None):
        raise ValueError(f"its run's validation_loss must be a number, got {shown(run['validation_loss'])}")
    for name, tensors in {"state_dict": contents["state_dict"], **averages}.items():
        if not isinstance(tensors, dict) or not all(
            isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in tensors.items()
        ):
            raise ValueError(f"its {shown(name)} must be tensors by name")


def check_file(file: Path, key: str) -> None:
    """ValueError, blaming the setting `key`, for what is no file."""
    if not file.exists():
        raise ValueError(f"{key}={file} does not exist; give the path of a .ckpt file that train.py wrote")
    if file.is_dir():
        raise ValueError(f"{key}={file} is a folder; give the path of a .ckpt file that train.py wrote")


def unpickled(file: Path, key: str) -> Any:
    """What torch.load makes of an existing file, on the CPU, of tensors and plain containers alone.

    ValueError, blaming the setting `key`, where it cannot.
    """
    check_sums(file, key)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ValueError(f"{key}={file} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever an unpickler makes of bytes that are no pickle
        if "Unsupported global" in str(error):
            raise ValueError(
                f"{key}={file} holds more than tensors and plain containers, of which nothing is run here; save its "
                "state dict alone"
            ) from error
        raise ValueError(
            f"{key}={file} cannot be read ({file.stat().st_size:,} bytes): it is truncated or no checkpoint"
        ) from error


def check_sums(file: Path, key: str) -> None:
    """ValueError, blaming the setting `key`, where a record of a file that torch wrote has not the CRC-32 written with
    it, which torch.load does not look at. A file that is no archive passes: it has none."""
    try:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            # Of what is marked as a folder torch would read nothing, and leave the memory as it was.
            folders = (e.filename for e in archive.infolist() if e.external_attr & 0x10 and not e.is_dir())
            damaged = next(folders, None) or archive.testzip()
    except Exception:  # whatever reading a damaged archive raises; `zipfile` does not say
        damaged = "its table of contents"
    if damaged is not None:
        raise ValueError(f"{key}={file} is damaged: {damaged} is not what was written")
