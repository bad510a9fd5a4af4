"""Snapshots of power-function averages: a folder of files written during training, from which any length is made up."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dit.checkpoint.power import Fit, check_length, fit
from dit.checkpoint.stored import StoredMetadata, read_stored
from dit.tensors import TensorFile, open_tensors, save_tensors

SNAPSHOTS = "ema"  # in that of a run
WORST = 0.1  # residual of a fit that still stands for the length; see docs/ema.md


@dataclass(frozen=True)
class Snapshot:
    """One average at one step: a file that `load` reads too."""

    file: Path
    stored: StoredMetadata

    @property
    def step(self) -> int:
        return self.stored.step

    @property
    def length(self) -> float:
        return float(self.stored.weights.removeprefix("ema length "))


@dataclass(frozen=True)
class Reconstruction:
    """How an average that was not tracked is made of snapshots; nothing but their headers was read so far."""

    snapshots: list[Snapshot]
    fit: Fit
    length: float
    step: int

    @property
    def stored(self) -> StoredMetadata:
        """The metadata of the result: that of the last snapshot, with the weights it stands for."""
        return StoredMetadata(self.snapshots[-1].stored.metadata, f"ema length {self.length}", self.step)

    def state(self) -> dict[str, Tensor]:
        """The weights, in float32, summed in float64; one tensor of one snapshot is in memory at a time."""
        with ExitStack() as stack:
            opened = [stack.enter_context(open_tensors(s.file, "snapshot")) for s in self.snapshots]
            return {name: self._sum(opened, name) for name in opened[-1].names}

    def _sum(self, opened: list[TensorFile], name: str) -> Tensor:
        total = torch.zeros(opened[-1].shape(name), dtype=torch.float64)
        for file, coefficient in zip(opened, self.fit.coefficients, strict=True):
            total.add_(file.tensor(name), alpha=coefficient)
        return total.float()


def write_snapshot(folder: Path, average: dict[str, Tensor], stored: StoredMetadata, dtype: torch.dtype) -> None:
    """Writes an average that `stored` names, rounded to `dtype` but for tensors with values beyond its range, replacing
    a file of the same step and length as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step_{stored.step:07d}_{stored.weights.removeprefix('ema ').replace(' ', '_')}.safetensors"
    save_tensors(folder / name, {key: _rounded(tensor, dtype) for key, tensor in average.items()}, stored.header)


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = tensor.to(dtype)
    return rounded if bool(rounded.isfinite().all()) else tensor


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in `folder` by step and length, of which only headers are read. ValueError for a broken file."""
    files = folder.glob("step_*.safetensors")  # not the unfinished ones, which end otherwise
    found = [Snapshot(file, read_stored(file, "snapshot")) for file in files]
    return sorted(found, key=lambda snapshot: (snapshot.step, snapshot.length))


def reconstruct(run: Path, length: float, step: int | None = None, key: str = "length") -> Reconstruction:
    """How to make the average of `length` at `step` of the snapshots up to then in the folder of a run.

    step: the last snapshot's where None. key: the setting to blame. Raises ValueError where there are no snapshots, or
    where they make up something too far from it.
    """
    check_length(key, length)
    snapshots = list_snapshots(run / SNAPSHOTS)
    if not snapshots:
        raise ValueError(f"{key}={length} needs snapshots in {run / SNAPSHOTS}; training with ema=power writes them")
    step = snapshots[-1].step if step is None else step
    used = [snapshot for snapshot in snapshots if snapshot.step <= step]
    if not used:
        raise ValueError(f"step={step} is before the first snapshot in {run / SNAPSHOTS}, of step {snapshots[0].step}")
    found = fit([s.length for s in used], [s.step for s in used], length, step)
    if found.residual > WORST:
        tracked = ", ".join(str(value) for value in sorted({s.length for s in used}))
        raise ValueError(
            f"{key}={length} at step {step} cannot be made of the {len(used)} snapshots of {tracked} up to step "
            f"{used[-1].step} in {run / SNAPSHOTS}: the best sum is {found.residual:.0%} off, at most {WORST:.0%} is "
            "allowed; choose a length nearer to those, the step of a snapshot, or write them more often"
        )
    return Reconstruction(used, found, float(length), step)
