"""The only sampling loop: previews, sample.py, evaluate.py and the demo all end here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dit.checks import check_whole
from dit.diffusion.path import GaussianPath
from dit.diffusion.prediction import Prediction
from dit.solvers.grid import Grid, check_grid
from dit.solvers.guidance import CFG, COND, EVERYTHING, Denoise, Guidance, LinearScale, Pass, Stage, StepContext
from dit.solvers.ode import Euler
from dit.solvers.passes import Passes
from dit.solvers.solver import Solver
from dit.solvers.start import FromNoise, Start, raised


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


class _Conditioning(NamedTuple):
    """What the network is told of the images: labels [B] or None, conditions [B, ...] by name."""

    labels: Tensor | None
    conditions: Mapping[str, Tensor]


class _GuidedDenoiser:
    """What a solver asks during one step: the rule, the passes it needs, and how often it was asked."""

    def __init__(self, rule: Guidance, passes: Passes, context: StepContext, told: _Conditioning):
        self._rule, self._passes, self._context, self._told, self.calls = rule, passes, context, told, 0

    def __call__(self, x: Tensor, t: Tensor, true_noise: Tensor | None = None, /) -> Prediction:
        noise = self._context.true_noise if true_noise is None else true_noise
        stage = Stage(self._context, x, t, self._told.labels, self.calls == 0, noise, self._told.conditions)
        predictions = self._passes(self._rule.passes(stage), stage)
        self.calls += 1
        return self._rule.combine(predictions, stage)


@torch.no_grad()
def sample(
    denoiser: Denoise,
    noise: Tensor | None,
    labels: Tensor | None = None,
    *,
    grid: Tensor,
    conditions: Mapping[str, Tensor] | None = None,
    solver: Solver | None = None,
    guidance: Guidance | None = None,
    step_noise: Callable[[], Tensor] | None = None,
    start: Start = FromNoise(),  # noqa: B008 it is frozen
    known: Tensor | None = None,
    mask: Tensor | None = None,
    max_rows: int | None = None,
    on_step: Callable[[StepContext, Tensor], None] | None = None,
) -> Samples:
    """Integrate from noise to data along `grid`.

    denoiser: any callable (x, t, labels) -> Prediction with a `.path`. noise: [B, *D] of unit variance; half precision
    is raised to float32. labels: [B] or None. conditions: what else the network is told of each image, [B, ...] by
    name. grid: falling t [n + 1], see `make_grid`. solver: Euler by default. guidance: none by default. step_noise:
    draws [B, *D] for stochastic solvers, such as `ImageNoise(...).draw`.

    start: where x begins at t_0 = grid[0]: FromNoise, FromMean, FromImage or FromState.

    Inpainting: where `mask` (broadcasting over x, 1 or True) holds, x is alpha known + sigma noise before the first
    step and after each, with the noise the rest of the picture has, so the result is `known` there.

    max_rows: at most so many rows in one network call. on_step(context, x) sees each step's result.

    The host does not wait for the device between the first step and the last (the solver Dopri5 does, for its error
    estimate, and a `scale` or rule that reads values would).

    Raises ValueError before the first network call for what does not fit together; FloatingPointError after the last
    step, naming step and noise level, if the state became non-finite in one.
    """
    solver, guidance = solver or Euler(), guidance or CFG(scale=1)
    noise, known = (v if v is None else raised(v) for v in (noise, known))
    path, grid = denoiser.path, _checked_grid(grid)
    networks = {"model": denoiser, **guidance.networks}
    if not isinstance(start, Start):
        raise ValueError(f"start must be FromNoise(), FromMean(), FromImage(...) or FromState(...), got {start!r}")
    start.check(noise)
    x = start.like(noise)
    _check_labels(denoiser, labels, len(x))
    told = _Conditioning(labels, conditions or {})
    check_conditions(denoiser, told.conditions, len(x))
    for network in networks.values():
        _check_kind(network, grid)
    _check_inpainting(noise, known, mask)
    check_whole("max_rows", max_rows, least=1, or_null=True)
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

    memory: dict[int, Any] = {}

    def context_of(index: int, x: Tensor, true_noise: Tensor | None) -> StepContext:
        ends = grid[index], grid[index + 1]
        kind = solver.convergence, solver.stochastic
        return StepContext(index, len(grid) - 1, path, *ends, x, true_noise, noise, *kind, memory)

    for index, t in enumerate(grid[:-1]):
        # A scale that is no number at some level is found before the first call, not after an hour.
        stage = Stage(context_of(index, x, noise), x, t, labels, conditions=told.conditions)
        _check_drops(guidance.passes(stage), networks, told.conditions)
    spec = {
        "path": path.spec,
        "kind": getattr(denoiser, "kind", None),
        "sigma_data": getattr(denoiser, "sigma_data", None),
        "solver": describe(solver),
        "guidance": describe(guidance),
        "start": start.name,
        "inpainting": known is not None,
        **({"conditions": sorted(told.conditions)} if told.conditions else {}),
        "steps": len(grid) - 1,
        "grid": grid.tolist(),
        "log_snr": [None if v.isinf() else float(v) for v in path.log_snr(grid)],
    }

    passes, evaluations = Passes(networks, max_rows), 0

    def unguided(x: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return passes([COND], Stage(context_of(0, x, noise), x, grid[0], labels, conditions=told.conditions))[COND].x0

    x = start.place(noise, path.coefficients(grid[0]).like(x), unguided)
    x = _inpainted(x, path, grid[0], known, mask, noise)
    carried, finite = solver.init(noise, grid), []
    for index, (t, t_next) in enumerate(pairwise(grid)):
        context = context_of(index, x, carried.true_noise)
        predict = _GuidedDenoiser(guidance, passes, context, told)
        x, carried = solver.step(predict, path, x, t, t_next, carried, step_noise or _no_noise)
        evaluations += predict.calls
        x = _inpainted(x, path, t_next, known, mask, carried.true_noise)
        finite.append(x.isfinite().all())
        if on_step is not None:
            on_step(context, x)
    _check_finite(torch.stack(finite).cpu().tolist(), path, grid)
    rows = {name: count / len(x) for name, count in passes.rows.items()}
    return Samples(x, NFE(evaluations, sum(rows.values()), rows), spec)


def _check_finite(finite: Sequence[bool], path: GaussianPath, grid: Tensor) -> None:
    """FloatingPointError naming the first step whose result was not."""
    if not all(finite):
        step = finite.index(False)
        before, after = path.log_snr(grid[step : step + 2]).tolist()
        raise FloatingPointError(
            f"sampling became non-finite in step {step + 1} of {len(finite)}, from log-SNR {before:.2f} to {after:.2f}"
        )


def _no_noise() -> Tensor:
    raise AssertionError("a solver that says it is not stochastic draws no noise")


def _inpainted(
    x: Tensor, path: GaussianPath, t: Tensor, known: Tensor | None, mask: Tensor | None, noise: Tensor | None
) -> Tensor:
    """x with what is known put where the mask holds, at the noise level of t and with the noise that is in x."""
    if known is None or mask is None or noise is None:
        return x
    c = path.coefficients(t).like(x)
    return torch.where(mask.bool(), c.alpha * known + c.sigma * noise, x)  # [B, *D]


def _checked_grid(grid: Tensor) -> Tensor:
    check_grid(grid)
    return grid.detach().double().cpu()


def _check_labels(denoiser: Denoise, labels: Tensor | None, count: int) -> None:
    if count == 0:
        raise ValueError("noise must hold at least one image, got none")
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        raise ValueError("labels must be a tensor of whole numbers, one per image")
    if labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one per image, got {tuple(labels.shape)}")
    null = getattr(denoiser, "null_label", None)
    if null is not None:
        least, most = torch.stack(labels.aminmax()).cpu().tolist()  # waits for the device once
        if least < 0 or most > null:
            raise ValueError(f"labels must be in 0 ... {null}, got {least} ... {most}")


def check_conditions(denoiser: Denoise, conditions: Mapping[str, Tensor], count: int) -> None:
    """ValueError where the network does not take a condition of `conditions`, where one is missing that it was always
    told, or is not of `count` images or of its shape."""
    taken: Mapping[str, tuple[int, ...]] | None = getattr(denoiser, "conditions", None)
    for name, value in conditions.items():
        if taken is not None and name not in taken:
            known = f"it takes {', '.join(sorted(taken))}" if taken else "it takes none"
            raise ValueError(f"condition {name} is not known to the network; {known}")
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
            size = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"condition {name} must be a tensor of {count} images, one a row, got {size}")
        if taken is not None and tuple(value.shape[1:]) != tuple(taken[name]):
            raise ValueError(
                f"condition {name} must have shape {(count, *taken[name])}, [images, *shape], got {tuple(value.shape)}"
            )
    optional = getattr(denoiser, "optional", None)
    if taken is not None and optional is not None and (missing := sorted(taken.keys() - conditions.keys() - optional)):
        raise ValueError(
            f"condition {missing[0]} must be given: the network was always told it in training (dropout.{missing[0]} 0)"
        )


def _check_drops(passes: Sequence[Pass], networks: Mapping[str, Denoise], conditions: Mapping[str, Tensor]) -> None:
    """ValueError for a pass that drops, by name, a condition which its network was always told, or of which is none."""
    for name, denoiser in sorted(
        {(name, networks[p.network]) for p in passes for name in p.drop - EVERYTHING}, key=str
    ):
        optional = getattr(denoiser, "optional", None)
        if name not in conditions:
            raise ValueError(f"guidance drops condition {name}, of which the images have none")
        if optional is not None and name not in optional:
            raise ValueError(f"guidance drops condition {name}, which training never did (dropout.{name} 0)")


def _check_kind(denoiser: Denoise, grid: Tensor) -> None:
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
    if isinstance(thing, Solver | Guidance | Grid | LinearScale):
        known = fields(thing) if is_dataclass(thing) else ()
        return {"name": type(thing).__name__, **{f.name: describe(getattr(thing, f.name)) for f in known}}
    if isinstance(thing, GaussianPath):
        return thing.spec
    if isinstance(thing, list | tuple):
        return [describe(each) for each in thing]
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    return getattr(thing, "__name__", type(thing).__name__)
