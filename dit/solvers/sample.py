"""The only sampling loop: previews, sample.py, evaluate.py and the demo all end here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dit.diffusion.path import GaussianPath
from dit.diffusion.prediction import Prediction
from dit.solvers.grid import Grid, UniformGrid, check_grid
from dit.solvers.guidance import CFG, COND, Denoise, Guidance, LinearScale, Stage, StepContext
from dit.solvers.noise import ImageNoise
from dit.solvers.ode import Euler, Heun
from dit.solvers.passes import Passes
from dit.solvers.solver import Solver

Init = Literal["noise", "mean"]


@dataclass(frozen=True)
class NFE:
    """What a trajectory cost. evaluations: guided predictions, one after the other; rows: network rows per image (two
    per evaluation under CFG), of all networks together; by_network: the same, by name."""

    evaluations: int
    rows: float
    by_network: dict[str, float]


@dataclass(frozen=True)
class Samples:
    """x0: [B, *D] in model space; nfe: counted, not claimed; spec: all that changes the numbers, as a plain dict."""

    x0: Tensor
    nfe: NFE
    spec: dict[str, Any]


@torch.no_grad()
def sample(
    denoiser: Denoise,
    noise: Tensor | None,
    labels: Tensor | None = None,
    *,
    grid: Tensor,
    solver: Solver | None = None,
    guidance: Guidance | None = None,
    step_noise: Callable[[], Tensor] | None = None,
    init: Init = "noise",
    image: Tensor | None = None,
    state: Tensor | None = None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    max_rows: int | None = None,
    on_step: Callable[[StepContext, Tensor], None] | None = None,
) -> Samples:
    """Integrate from noise to data along `grid`.

    denoiser: any callable (x, t, labels) -> Prediction with a `.path`. noise: [B, *D] of unit variance; half precision
    is raised to float32. labels: [B] or None. grid: falling t [n + 1], see `make_grid`. solver: Euler by default.
    guidance: none by default. step_noise: draws [B, *D] for stochastic solvers, such as `ImageNoise(...).draw`.

    Where to start, at t_0 = grid[0]: from sigma noise; with init="mean" from alpha x0 + sigma noise, x0 predicted
    there without guidance (one evaluation more, none where alpha is 0; it gives back the mean that a path which ends
    before pure noise loses); with `image` [B, *D], a picture in model space, from alpha image + sigma noise (image to
    image: the lower the grid begins, the more is kept); or from `state` [B, *D], x at t_0 itself, for which `noise` may
    be None if nobody knows what noise is in it.

    Inpainting: where `mask` (broadcasting over x, 1 or True) holds, x is alpha known + sigma noise after each step,
    with the noise the rest of the picture has, so the result is `known` there.

    max_rows: at most so many rows in one network call. on_step(context, x) sees each step's result.

    Raises ValueError before the first network call for what does not fit together; FloatingPointError, naming step
    and noise level, as soon as the state is not finite.
    """
    solver, guidance = solver or Euler(), guidance or CFG(scale=1)
    noise, image, state, known = (
        v if v is None else v.to(torch.promote_types(v.dtype, torch.float32)) for v in (noise, image, state, known)
    )
    path, grid = denoiser.path, _checked_grid(grid)
    _check_start(denoiser, noise, labels, grid, init, image, state)
    _check_inpainting(noise, known, mask)
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1 or null, got {max_rows}")
    guidance.check(denoiser, labels)
    solver.check(denoiser, grid)
    if guidance.needs_noise and noise is None:
        raise ValueError(
            f"guidance {type(guidance).__name__} must know the noise in the state it starts from; give noise as well"
        )
    if solver.stochastic and step_noise is None:
        raise ValueError(
            f"solver {type(solver).__name__} draws noise in every step; give step_noise, such as ImageNoise(...).draw"
        )

    passes, evaluations, memory = Passes({"model": denoiser, **guidance.networks}, max_rows), 0, {}
    x = state
    if x is None:
        assert noise is not None
        c = path.coefficients(grid[0]).like(noise)
        x = c.sigma * noise if image is None else c.alpha * image + c.sigma * noise
        if init == "mean" and float(c.alpha) > 0:
            first = StepContext(0, len(grid) - 1, path, grid[0], grid[1], x, noise, noise)
            x = c.alpha * passes([COND], Stage(first, x, grid[0], labels))[COND].x0 + x
            evaluations += 1
    carried = solver.init(noise, grid)
    for index, (t, t_next) in enumerate(pairwise(grid)):
        context = StepContext(
            index, len(grid) - 1, path, t, t_next, x, carried.true_noise, noise, solver.order, solver.stochastic, memory
        )
        before = evaluations

        def predict(
            x: Tensor,
            t: Tensor,
            true_noise: Tensor | None = None,
            context: StepContext = context,
            before: int = before,
        ) -> Prediction:
            nonlocal evaluations
            noise_now = context.true_noise if true_noise is None else true_noise
            stage = Stage(context, x, t, labels, evaluations == before, noise_now)
            predictions = passes(guidance.passes(stage), stage)
            evaluations += 1
            return guidance.combine(predictions, stage)

        x, carried = solver.step(predict, path, x, t, t_next, carried, step_noise or _no_noise)
        if known is not None and mask is not None and carried.true_noise is not None:
            c = path.coefficients(t_next).like(x)
            x = torch.where(mask.bool(), c.alpha * known + c.sigma * carried.true_noise, x)
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
        "start": "state" if state is not None else "image" if image is not None else init,
        "inpainting": known is not None,
        "steps": len(grid) - 1,
        "grid": grid.tolist(),
        "log_snr": [None if v.isinf() else float(v) for v in path.log_snr(grid)],
    }
    rows = {name: count / len(x) for name, count in passes.rows.items()}
    return Samples(x, NFE(evaluations, sum(rows.values()), rows), spec)


def _no_noise() -> Tensor:
    raise AssertionError("a solver that says it is not stochastic draws no noise")


def _checked_grid(grid: Tensor) -> Tensor:
    check_grid(grid)
    return grid.detach().double().cpu()


def _check_start(
    denoiser: Denoise,
    noise: Tensor | None,
    labels: Tensor | None,
    grid: Tensor,
    init: str,
    image: Tensor | None,
    state: Tensor | None,
) -> None:
    if init not in get_args(Init):
        raise ValueError(f"init must be noise or mean, got {init!r}")
    if (state is not None) + (image is not None) + (init == "mean") > 1:
        raise ValueError("only one of state, image and init=mean can say where to start")
    if noise is None and state is None:
        raise ValueError("noise is needed, [B, *D] of unit variance; only a start from a given state can do without")
    shape = (state if noise is None else noise).shape  # type: ignore[union-attr]
    for name, tensor in {"state": state, "image": image}.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must have the shape of noise, {tuple(shape)}, got {tuple(tensor.shape)}")
    if labels is not None and labels.shape != shape[:1]:
        raise ValueError(f"labels must have shape ({shape[0]},), one per image, got {tuple(labels.shape)}")
    null = getattr(denoiser, "null_label", None)
    if labels is not None and null is not None:
        low, high = labels.min(), labels.max()
        if int(low) < 0 or int(high) > null:
            raise ValueError(f"labels must be in 0 ... {null}, got {int(low)} ... {int(high)}")
    kind = getattr(denoiser, "kind", None)
    if kind in ("eps", "score") and float(denoiser.path.coefficients(grid[0]).alpha) == 0:
        raise ValueError(
            f"a network that predicts {kind} cannot start at t={float(grid[0]):g}, where alpha is 0 and {kind} says "
            "nothing about the data; predict velocity, v or x0 on this path, or start the grid below"
        )


def _check_inpainting(noise: Tensor | None, known: Tensor | None, mask: Tensor | None) -> None:
    if known is None and mask is None:
        return
    if known is None or mask is None:
        raise ValueError("inpainting needs both known and mask")
    if noise is None:
        raise ValueError("inpainting needs the noise in the picture; give noise as well")
    try:
        fits = known.shape == noise.shape == torch.broadcast_shapes(mask.shape, noise.shape)
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"known must have the shape of noise, {tuple(noise.shape)}, and mask broadcast to it, "
            f"got {tuple(known.shape)} and {tuple(mask.shape)}"
        )


def describe(thing: Any) -> Any:
    """A solver, a rule or a nest of rules as plain containers: {"name": class, **fields}.

    A network or a function is described by its name, all there is to say of it without its weights.
    """
    if is_dataclass(thing) and isinstance(thing, Solver | Guidance | Grid | LinearScale):
        return {"name": type(thing).__name__, **{f.name: describe(getattr(thing, f.name)) for f in fields(thing)}}
    if isinstance(thing, GaussianPath):
        return thing.spec
    if isinstance(thing, list | tuple):
        return [describe(each) for each in thing]
    if callable(thing):
        return getattr(thing, "__name__", type(thing).__name__)
    assert thing is None or isinstance(thing, bool | int | float | str), f"{thing!r} cannot be written into a protocol"
    return thing


@dataclass(frozen=True)
class Sampler:
    """A sampling protocol: what is fixed while images, labels and checkpoints change."""

    steps: int = 25
    grid: Grid = field(default_factory=UniformGrid)
    solver: Solver = field(default_factory=Heun)
    guidance: Guidance = field(default_factory=CFG)
    seed: int = 0
    batch_size: int = 128
    init: Init = "noise"
    max_rows: int | None = None

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "seed": 0, "batch_size": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.init not in get_args(Init):
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
                init=self.init,
                max_rows=self.max_rows,
            )
