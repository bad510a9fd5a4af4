"""What a run leaves behind, and what of it differs from what an undisturbed run left."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dit.checkpoint import LAST, read

# Of the log, what depends on how fast the machine was; and of the checkpoint what says how the run was told to go.
_SPEED = re.compile(r"per_second|per_sec|mfu|memory|seconds|device", re.IGNORECASE)
# Lightning counts the validation before a checkpoint once more where it goes on from that; nothing follows from it.
_COUNT = "loops/fit_loop/epoch_loop.val_loop.batch_progress/total"
_TOLD = ("metadata", "callbacks", "hparams_name", "pytorch-lightning_version")


def end_of(folder: Path) -> dict[str, str]:
    """Name -> digest of every tensor, number and text of the last checkpoint (weights, averages, optimiser, schedule,
    progress), of every row of the log without speeds, and of every snapshot and preview."""
    contents = read(folder / "checkpoints" / LAST)
    told = {key: part for key, part in contents.items() if key not in _TOLD}
    end = {name: _digest(leaf) for name, leaf in _leaves(told) if not name.startswith(_COUNT)}
    for number, row in enumerate(rows(folder)):
        end[f"log/{number}"] = repr(row)
    for file in sorted(folder.glob("previews/*.png")):
        end[f"previews/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    for file in sorted(folder.glob("ema/*.safetensors")):  # its header names the folder
        end |= {f"ema/{file.name}/{name}": _digest(tensor) for name, tensor in load_file(file).items()}
    return end


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not _SPEED.search(k)} for row in csv.DictReader(file)]


def difference(undisturbed: dict[str, str], folder: Path) -> str | None:
    """None where `folder` ended bit for bit as the undisturbed run, and holds nothing unfinished; else what differs.

    A run that goes on makes a preview of the step it goes on from; such are left out.
    """
    end = end_of(folder)
    names = [name for name in end if name in undisturbed or not name.startswith("previews/")]
    wrong = [name for name in dict.fromkeys([*undisturbed, *names]) if end.get(name) != undisturbed.get(name)]
    wrong += [str(file.relative_to(folder)) for file in folder.rglob("*.tmp")]
    shown = ", ".join(f"{name} {_short(end.get(name))} and not {_short(undisturbed.get(name))}" for name in wrong[:3])
    return f"{len(wrong)} of {len(undisturbed)} things differ: {shown}" if wrong else None


def _short(text: str | None) -> str:
    return str(text) if text is None or len(text) < 80 else f"{text[:77]}..."


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, f"{name}/{key}" if name else str(key))
    else:
        yield name, node


def _digest(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        about = f"{leaf.dtype} {tuple(leaf.shape)} "
        return about + hashlib.sha256(leaf.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    return repr(leaf)
