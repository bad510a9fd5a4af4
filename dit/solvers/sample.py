"""The only sampling loop: previews, sample.py, evaluate.py and the demo all end here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dit.diffusion.path import GaussianPath
from dit.diffusion.prediction import Prediction
from dit.solvers.grid import Grid, UniformGrid, check_grid
from dit.solvers.guidance import CFG, Denoise, Guidance, StepContext
from dit.solvers.noise import ImageNoise
from dit.solvers.ode import Euler, Heun, Solver


@dataclass(frozen=True)
class NFE:
    """What a trajectory cost. evaluations: guided predictions the solver asked for; rows: network rows per image
    (two per evaluation under CFG)."""

    evaluations: int
    rows: float


@dataclass(frozen=True)
class Samples:
    """x0: [B, *D] in model space; nfe: counted, not claimed; spec: all that changes the numbers, as a plain dict."""

    x0: Tensor
    nfe: NFE
    spec: dict[str, Any]


class _Counted:
    """A denoiser that counts its rows."""

    def __init__(self, denoiser: Denoise):
        self._denoiser, self.path, self.rows = denoiser, denoiser.path, 0
        self.null_label: int | None = getattr(denoiser, "null_label", None)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Prediction:
        self.rows += len(x)
        return self._denoiser(x, t, labels)


@torch.no_grad()
def sample(
    denoiser: Denoise,
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    grid: Tensor,
    solver: Solver | None = None,
    guidance: Guidance | None = None,
    step_noise: Callable[[], Tensor] | None = None,
    on_step: Callable[[StepContext, Tensor], None] | None = None,
) -> Samples:
    """Integrate from noise to data along `grid`.

    denoiser: any callable (x, t, labels) -> Prediction with a `.path`. noise: [B, *D] of unit variance; the trajectory
    starts from sigma(t_0) noise. labels: [B] or None. grid: falling t [n + 1], see `make_grid`. solver: Euler by
    default. guidance: none by default. step_noise: draws [B, *D] for stochastic solvers. on_step(context, x) sees each
    step's result.

    Raises ValueError before the first network call for labels of another length or out of range, a grid that does not
    fall, guidance the denoiser cannot serve, or an eps network started where alpha is 0; FloatingPointError, naming
    step and noise level, as soon as the state is not finite.
    """
    solver, guidance = solver or Euler(), guidance or CFG(scale=1)
    counted = _Counted(denoiser)
    path = counted.path
    if labels is not None and labels.shape != noise.shape[:1]:
        raise ValueError(f"labels must have shape ({len(noise)},), one per image, got {tuple(labels.shape)}")
    if labels is not None and counted.null_label is not None:
        low, high = labels.min(), labels.max()
        if int(low) < 0 or int(high) > counted.null_label:
            raise ValueError(f"labels must be in 0 ... {counted.null_label}, got {int(low)} ... {int(high)}")
    check_grid(grid)
    grid = grid.detach().double().cpu()
    _check_start(path, grid, getattr(denoiser, "kind", None))
    guidance.check(counted, labels)

    evaluations = 0
    x, state = path.coefficients(grid[0]).like(noise).sigma * noise, solver.init(noise)
    for index, (t, t_next) in enumerate(pairwise(grid)):
        context = StepContext(index, len(grid) - 1, path, t, t_next, x, state.true_noise, solver.order)

        def predict(x: Tensor, t: Tensor, context: StepContext = context) -> Prediction:
            nonlocal evaluations
            evaluations += 1
            return guidance(counted, x, t, labels, context)

        x, state = solver.step(predict, path, x, t, t_next, state, step_noise)
        if not bool(x.isfinite().all()):
            raise FloatingPointError(
                f"sampling became non-finite in step {index + 1} of {context.steps}, "
                f"from log-SNR {context.log_snr:.2f} to {context.log_snr_next:.2f}"
            )
        if on_step is not None:
            on_step(context, x)
    spec = {
        "path": path.spec,
        "kind": getattr(denoiser, "kind", None),
        "solver": describe(solver),
        "guidance": describe(guidance),
        "steps": len(grid) - 1,
        "grid": grid.tolist(),
        "log_snr": [None if v.isinf() else float(v) for v in path.log_snr(grid)],
    }
    return Samples(x, NFE(evaluations, counted.rows / len(noise)), spec)


def _check_start(path: GaussianPath, grid: Tensor, kind: str | None) -> None:
    if kind in ("eps", "score") and float(path.coefficients(grid[0]).alpha) == 0:
        raise ValueError(
            f"a network that predicts {kind} cannot start at t={float(grid[0]):g}, where alpha is 0 and {kind} says "
            "nothing about the data; predict velocity, v or x0 on this path, or start the grid below"
        )


def describe(thing: Any) -> dict[str, Any]:
    """A frozen dataclass (a solver, a rule, a nest of rules) as {"name": class, **fields}."""
    assert is_dataclass(thing), f"{type(thing).__name__} must be a dataclass to be written into a protocol"
    values = {f.name: getattr(thing, f.name) for f in fields(thing)}
    plain = {name: describe(value) if is_dataclass(value) else value for name, value in values.items()}
    return {"name": type(thing).__name__, **plain}


@dataclass(frozen=True)
class Sampler:
    """A sampling protocol: what is fixed while images, labels and checkpoints change."""

    steps: int = 25
    grid: Grid = field(default_factory=UniformGrid)
    solver: Solver = field(default_factory=Heun)
    guidance: Guidance = field(default_factory=CFG)
    seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "seed": 0, "batch_size": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")

    def batches(
        self,
        denoiser: Denoise,
        labels: Sequence[int] | None,
        shape: Sequence[int],
        count: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[Samples]:
        """Images 0 ... count - 1 with `labels` (or unconditional, then `count` says how many), a batch at a time.

        shape: (C, H, W). Image i is the same for every batch size: it depends on (seed, i) and its label alone.
        """
        count = len(labels) if labels is not None else count
        assert count is not None, "either labels or a count"
        grid = self.grid(denoiser.path, self.steps)
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            source = ImageNoise(self.seed, range(start, stop), shape, device)
            some = None if labels is None else torch.tensor(labels[start:stop], device=device)
            yield sample(
                denoiser,
                source.draw(),
                some,
                grid=grid,
                solver=self.solver,
                guidance=self.guidance,
                step_noise=source.draw,
            )
