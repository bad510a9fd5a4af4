"""Images sampled by any number of processes, into a folder where an interrupted command goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from dit.metrics.cache import read_tensors, warn_made_again
from dit.solvers import Denoise, Sampler
from dit.tensors import save_tensors

LABELS = ("balanced", "random")
_LINES_EVERY, _LOOK_EVERY = 10.0, 0.1  # seconds


def labels_of(rule: str, numbers: Sequence[int], num_classes: int, seed: int) -> list[int] | None:
    """The label of each image: its number modulo the classes, or a draw of (seed, number). None without classes.

    ValueError for a rule that is none of `LABELS`.
    """
    if rule not in LABELS:
        raise ValueError(f"labels must be {' or '.join(LABELS)}, got {rule!r}")
    if num_classes == 0:
        return None
    if rule == "balanced":
        return [number % num_classes for number in numbers]
    return [_drawn(seed, number) % num_classes for number in numbers]


def _drawn(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"label:{seed}:{number}".encode(), digest_size=16).digest(), "big")


@dataclass(frozen=True)
class GeneratedImages:
    """What was made of images 0 ... N - 1, in order: what `see` told of them, each [N, ...], and the cost."""

    seen: dict[str, Tensor]
    labels: list[int] | None
    evaluations: int
    rows: float
    seconds: float  # of sampling, all processes together


@dataclass(frozen=True)
class Generation:
    """How images are made and what is kept of them.

    labels: "balanced" or "random". shape: (C, H, W) of the model's space; decode: from it to uint8 [B, C, H, W]; see:
    uint8 images to what is kept of them, each [B, ...]. identity: all else that changes what is kept, such as digests
    of weights, in plain containers; it names the folder. shown: of which entries of `see` to keep how many images only.

    Image i is a function of (seed, i), and batches are the same ones for every number of processes, as a network's last
    digits depend on what else is in its batch.
    """

    denoiser: Denoise
    sampler: Sampler
    labels: str
    num_classes: int
    shape: tuple[int, int, int]
    decode: Callable[[Tensor], Tensor]
    see: Callable[[Tensor], dict[str, Tensor]]
    identity: dict[str, Any]
    shown: Mapping[str, int] = field(default_factory=dict)

    def folder(self, cache: Path) -> Path:
        content = json.dumps(self.identity, sort_keys=True)
        return cache / f"samples-{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def run(
        self, count: int, cache: Path, rank: int = 0, size: int = 1, device: torch.device | str = "cpu"
    ) -> GeneratedImages | None:
        """Called by all `size` processes, of which each makes its share of the batches that are not there yet. The
        first waits for the others, makes again what is damaged, and returns what all made; the others return None at
        once.
        """
        folder = self.folder(cache)
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            folder / f"images_{part.start:07d}-{part.stop - 1:07d}.safetensors": part for part in self._parts(count)
        }
        with _Shown(files, silent=rank > 0) as shown:
            for position, (file, part) in enumerate(files.items()):
                if position % size == rank and not file.exists():
                    self._make(file, part, device)
                    shown.look()
            if rank > 0:
                return None
            while not shown.look():
                time.sleep(_LOOK_EVERY)
        return self._joined(files, count, device)

    def _parts(self, count: int) -> Iterator[range]:
        for start in range(0, count, self.sampler.batch_size):
            yield range(start, min(start + self.sampler.batch_size, count))

    def _make(self, file: Path, part: range, device: torch.device | str) -> None:
        labels, begun = labels_of(self.labels, part, self.num_classes, self.sampler.seed), time.monotonic()
        made = self.sampler.batch(self.denoiser, part, labels, self.shape, device)
        images = self.decode(made.x0)
        facts = {"evaluations": made.nfe.evaluations, "rows": made.nfe.rows, "seconds": time.monotonic() - begun}
        seen = {
            name: tensor[: max(0, self.shown.get(name, part.stop) - part.start)]
            for name, tensor in self.see(images).items()
        }
        save_tensors(file, seen, {name: str(fact) for name, fact in facts.items()})

    def _joined(self, files: Mapping[Path, range], count: int, device: torch.device | str) -> GeneratedImages:
        parts, facts = [], []
        for file, part in files.items():
            try:
                read = read_tensors(file)
            except ValueError as error:
                warn_made_again(error)
                self._make(file, part, device)
                read = read_tensors(file)
            parts.append(read[0])
            facts.append(read[1])
        return GeneratedImages(
            {name: torch.cat([part[name] for part in parts]) for name in parts[0]},
            labels_of(self.labels, range(count), self.num_classes, self.sampler.seed),
            int(facts[0]["evaluations"]),
            float(facts[0]["rows"]),
            sum(float(fact["seconds"]) for fact in facts),
        )


class _Shown:
    """How many images are there and how long the rest takes: a bar on a terminal, lines in a log."""

    def __init__(self, files: dict[Path, range], silent: bool):
        self._missing, self._silent = dict(files), silent
        self._total, self._begun = sum(map(len, files.values())), time.monotonic()
        self._console, self._bar = Console(highlight=False), None

    def __enter__(self) -> _Shown:
        self._there = self._look()
        self._first, self._last = self._there, self._begun
        if self._silent or not self._missing:
            return self
        if self._there:
            self._console.print(f"{self._there:,} of {self._total:,} images are there already")
        if self._console.is_terminal:
            columns = (TextColumn("images"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=self._total, completed=self._there)
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def look(self) -> bool:
        """Whether all are there."""
        before, self._there = self._there, self._look()
        now = time.monotonic()
        if self._silent or self._there == before:
            return not self._missing
        left = (now - self._begun) * (self._total - self._there) / (self._there - self._first)
        text = f"{timedelta(seconds=round(left))} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._there, description=text)
        elif now - self._last >= _LINES_EVERY:
            self._last = now
            self._console.print(f"{self._there:,} of {self._total:,} images, {text}")
        return not self._missing

    def _look(self) -> int:
        self._missing = {file: part for file, part in self._missing.items() if not file.exists()}
        return self._total - sum(map(len, self._missing.values()))
