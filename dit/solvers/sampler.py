"""A sampling protocol: what is fixed while images, labels and checkpoints change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dit.checks import check_whole
from dit.solvers.grid import Grid, UniformGrid
from dit.solvers.guidance import CFG, Denoise, Guidance
from dit.solvers.noise import ImageNoise
from dit.solvers.ode import Heun
from dit.solvers.sample import Samples, check_conditions, sample
from dit.solvers.solver import Solver
from dit.solvers.start import FromMean, FromNoise

STARTS = {"noise": FromNoise(), "mean": FromMean()}


@dataclass(frozen=True)
class Sampler:
    """A sampling protocol: what is fixed while images, labels and checkpoints change."""

    steps: int = 25
    grid: Grid = field(default_factory=UniformGrid)
    solver: Solver = field(default_factory=Heun)
    guidance: Guidance = field(default_factory=CFG)
    seed: int = 0
    batch_size: int = 128
    init: Literal["noise", "mean"] = "noise"
    max_rows: int | None = None

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "seed": 0, "batch_size": 1}.items():
            check_whole(name, getattr(self, name), least)
        if self.init not in STARTS:
            raise ValueError(f"init must be noise or mean, got {self.init!r}")
        if self.solver.couples_images and self.batch_size != 1:
            raise ValueError(
                f"solver {type(self.solver).__name__} chooses its steps for a whole batch, so an image would depend on "
                f"its neighbours; use batch_size=1 or a solver of fixed steps, got batch_size={self.batch_size}"
            )

    def batches(
        self,
        denoiser: Denoise,
        labels: Sequence[int] | None,
        shape: Sequence[int],
        count: int | None = None,
        device: torch.device | str = "cpu",
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Iterator[Samples]:
        """Images 0 ... count - 1 with `labels` (or unconditional, then `count` says how many), a batch at a time.

        shape: (C, H, W); conditions: [count, ...] by name. Image i is the same for every batch size: it depends on
        (seed, i), its label and its conditions alone.
        """
        count = len(labels) if labels is not None else count
        assert count is not None, "either labels or a count"
        check_conditions(denoiser, conditions or {}, count)
        for start in range(0, count, self.batch_size):
            numbers = range(start, min(start + self.batch_size, count))
            some = None if labels is None else labels[start : numbers.stop]
            told = {name: value[start : numbers.stop] for name, value in (conditions or {}).items()}
            yield self.batch(denoiser, numbers, some, shape, device, told)

    def batch(
        self,
        denoiser: Denoise,
        numbers: Sequence[int],
        labels: Sequence[int] | None,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Samples:
        """The images with these numbers, `labels` (None: unconditional) and `conditions` together; shape: (C, H, W)."""
        source = ImageNoise(self.seed, numbers, shape, device)
        return sample(
            denoiser,
            source.draw(),
            None if labels is None else torch.tensor(labels, device=device),
            conditions={name: value.to(device) for name, value in (conditions or {}).items()},
            grid=self.grid(denoiser.path, self.steps),
            solver=self.solver,
            guidance=self.guidance,
            step_noise=source.draw,
            start=STARTS[self.init],
            max_rows=self.max_rows,
        )
