"""Solvers and guidance rules on mixtures whose scores are exact: orders, inconsistency, strength against spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.guidance.arms import (
    CFG_EULER,
    CFG_PLUS_PLUS,
    INTERVAL_CFG,
    LOG_SNR,
    MEAN_START,
    PROJECTED,
    TNR_ALL,
    TNR_GATED,
    UNIPC,
    UNIPC_LOG_SNR,
    Arm,
    keeps_signal,
    steps_within,
)
from benchmarks.guidance.toys import Judge, Toy, ToyDenoiser, sobol_normals, toy_a, toy_b
from dit.diffusion import GaussianPath, LinearFlow, VPContinuous
from dit.diffusion.prediction import Prediction
from dit.solvers import (
    DDIM,
    RK4,
    Churn,
    DPMSolver2,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Grid,
    Heun,
    Langevin,
    LogSNRGrid,
    Midpoint,
    SDEDPMSolverPP,
    Solver,
    UniformGrid,
    UniPC,
    sample,
)
from dit.solvers.sampler import STARTS
from dit.solvers.start import FromState

PATHS = {"scaled linear": VPContinuous(0.85, 12.0, power=2), "DDPM linear": VPContinuous(), "flow": LinearFlow()}
ODE = {
    "Euler": Euler(),
    "Heun": Heun(),
    "Midpoint": Midpoint(),
    "RK4": RK4(),
    "DPM-Solver-2": DPMSolver2(),
    "DPM-Solver++ 2S": DPMSolverPP(2, multistep=False),
    "DPM-Solver++ 2M": DPMSolverPP(2),
    "DPM-Solver++ 3M": DPMSolverPP(3),
    "UniPC-1": UniPC(1),
    "UniPC-2": UniPC(2),
    "UniPC-3": UniPC(3),
}
STOCHASTIC = {
    "DDIM(1)": DDIM(1.0),
    "SDE-DPM-Solver++ 1": SDEDPMSolverPP(1),
    "SDE-DPM-Solver++ 2": SDEDPMSolverPP(2),
    "Euler-Maruyama": EulerMaruyama(),
    "Churn(Heun)": Churn(),
    "Langevin(Euler)": Langevin(),
}
COUNTS = (12, 24, 48, 96, 192, 384, 768)
U_LAST = 0.05
POINTS = 4096
REFINED = (5, 10, 20, 40, 80, 160, 320, 640)
TOY_SCALES = (1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 5.0)
TOY_LAMBDAS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
GUIDED_ROWS = 48
GRIDS = {"uniform": UniformGrid(), "log-SNR": LogSNRGrid()}


@dataclass(frozen=True)
class FineGrid(Grid):
    """From the path's first level by equal steps of log-SNR to clean data: for converged runs."""

    def levels(self, path: GaussianPath, count: int) -> Tensor:
        levels = LogSNRGrid(-20.0, 10.0).levels(path, count)
        levels[0] = 1
        return levels


CONVERGED = (RK4(), FineGrid(), 200)


def study(report: Callable[[str], None]) -> dict[str, Any]:
    """All numbers of the part, as plain containers."""
    result = {}
    for measure in (orders, weak_orders, equal_nfe, unguided, refinement, guided):
        result[measure.__name__] = measure()
        report(measure.__name__)
    return result


def orders() -> dict[str, Any]:
    """Error at sigma/alpha = 0.05 of every ODE solver, from the scaled-linear schedule's last level on."""
    path, toy = PATHS["scaled linear"], toy_a()
    denoiser, (noise, labels) = ToyDenoiser(toy, path), starts(toy, 256)

    def end(solver: Solver, steps: int) -> tuple[Tensor, int]:
        grid = LogSNRGrid(last=-2 * math.log(U_LAST), final="min")(path, steps)
        run = sample(denoiser, noise, labels, grid=grid, solver=solver)
        return run.x0, run.nfe.evaluations

    truth, _ = end(UniPC(3), 4000)

    def error(solver: Solver, steps: int) -> tuple[int, float]:
        x, evaluations = end(solver, steps)
        return evaluations, float((x - truth).square().mean().sqrt())

    return ladder(ODE, error)


def weak_orders() -> dict[str, Any]:
    """Error of the variance at sigma/alpha = 0.05 of stochastic solvers on a Gaussian, without any sampling error."""
    path = PATHS["scaled linear"]

    def error(solver: Solver, steps: int) -> tuple[int, float]:
        grid = LogSNRGrid(last=-2 * math.log(U_LAST), final="min")(path, steps)
        denoiser, sources = GaussianDenoiser(path), Sources(2 * steps + 1)
        first, last = (path.coefficients(grid[i]) for i in (0, -1))
        start = denoiser.variance(first).sqrt() * sources.draw()
        run = sample(denoiser, None, None, grid=grid, solver=solver, step_noise=sources.draw, start=FromState(start))
        return run.nfe.evaluations, abs(float(run.x0.square().sum() / denoiser.variance(last)) - 1)

    return ladder(STOCHASTIC, error)


@dataclass(frozen=True)
class GaussianDenoiser:
    """The exact denoiser of N(0, std^2): linear, so that it acts on the coefficients of independent noises too."""

    path: VPContinuous
    std: float = 0.5
    null_label: int | None = None

    def variance(self, c) -> Tensor:
        return c.alpha**2 * self.std**2 + c.sigma**2

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Prediction:
        c = self.path.coefficients(t)
        return Prediction(x * (c.alpha * self.std**2 / self.variance(c)), "x0", x, c)


@dataclass
class Sources:
    """Draws that are unit vectors, one axis a noise: a state made of them holds what each noise has become, and its
    squared norm is the variance over all noises."""

    count: int
    drawn: int = field(default=0)

    def draw(self) -> Tensor:
        vector = torch.zeros(1, self.count, dtype=torch.float64)
        vector[0, self.drawn] = 1
        self.drawn += 1
        return vector


def ladder(solvers: dict[str, Solver], error: Callable[[Solver, int], tuple[int, float]]) -> dict[str, Any]:
    """Of each solver the errors over evaluations, and the slope over the last three counts."""
    result = {}
    for name, solver in solvers.items():
        points = [error(solver, count // solver.evaluations) for count in COUNTS]
        tail = torch.tensor(points[-3:], dtype=torch.float64).log()
        tail = tail - tail.mean(0)
        slope = -float((tail[:, 0] * tail[:, 1]).sum() / tail[:, 0].square().sum())
        result[name] = {"evaluations": [n for n, _ in points], "errors": [e for _, e in points], "slope": slope}
    return result


def equal_nfe() -> dict[str, Any]:
    """Error of every ODE solver from the first level to data, by schedule and grid, at 24 and 48 evaluations."""
    result: dict[str, Any] = {}
    for path_name, path in PATHS.items():
        toy = toy_a()
        denoiser, (noise, labels) = ToyDenoiser(toy, path), starts(toy, 256)
        truth = sample(denoiser, noise, labels, grid=FineGrid()(path, 1000), solver=UniPC(3)).x0
        for solver_name, solver in ODE.items():
            for grid_name, grid in GRIDS.items():
                for evaluations in (24, 48):
                    arm = replace(CFG_EULER, solver=solver, grid=grid)
                    steps = steps_within(evaluations, arm, 1.0, path)
                    run = sample(denoiser, noise, labels, grid=grid(path, steps), solver=solver)
                    error = float((run.x0 - truth).square().mean().sqrt())
                    by_solver = result.setdefault(path_name, {}).setdefault(solver_name, {})
                    by_solver[f"{grid_name}, {evaluations}"] = error
    return result


def starts(toy: Toy, count: int) -> tuple[Tensor, Tensor]:
    """The same `count` noises for every class, and the labels, class by class."""
    return sobol_normals(count).repeat(toy.classes, 1), torch.arange(toy.classes).repeat_interleave(count)


@dataclass(frozen=True)
class Bench:
    """A toy, its denoiser and its judge: scores an arm."""

    denoiser: ToyDenoiser
    judge: Judge

    @classmethod
    def of(cls, toy: Toy, path: GaussianPath, leak: float = 0.0) -> Bench:
        return cls(ToyDenoiser(toy, path, leak), Judge(toy, POINTS))

    def __call__(self, arm: Arm, scale: float, steps: int) -> dict[str, float]:
        toy, path = self.denoiser.toy, self.denoiser.path
        noise, labels = starts(toy, POINTS)
        run = sample(
            self.denoiser, noise, labels, grid=arm.grid(path, steps),
            solver=arm.solver, guidance=arm.guided(scale), start=STARTS[arm.init],
        )  # fmt: skip
        scores = asdict(self.judge(run.x0.reshape(toy.classes, POINTS, 2)))
        return {"scale": scale, "steps": steps, "rows": run.nfe.rows, **scores}


def corrections(path: GaussianPath) -> Iterable[Arm]:
    """Nothing, TNR, TNR at high noise only and, where the schedule keeps some signal, the mean start."""
    return (CFG_EULER, TNR_ALL, TNR_GATED, *((MEAN_START,) if keeps_signal(path) else ()))


def unguided() -> dict[str, Any]:
    """Scale 1, so one row an evaluation: corrections by solvers, grids, schedules and toys."""
    result: dict[str, Any] = {}
    for toy_name, toy in {"A": toy_a(), "B": toy_b()}.items():
        for path_name, path in PATHS.items():
            bench = Bench.of(toy, path)
            for arm in corrections(path):
                solver, grid, steps = CONVERGED
                runs = {"converged": bench(replace(arm, solver=solver, grid=grid), 1.0, steps)}
                for solver, rows in ((Euler(), 12), (Euler(), 24), (Euler(), 40), (RK4(), 24), (UniPC(2), 24)):
                    for grid_name, grid in GRIDS.items():
                        tried = replace(arm, solver=solver, grid=grid)
                        name = f"{type(solver).__name__}, {rows} rows, {grid_name}"
                        runs[name] = bench(tried, 1.0, steps_within(rows, tried, 1.0, path))
                result.setdefault(toy_name, {}).setdefault(path_name, {})[arm.name] = runs
    return result


def refinement() -> dict[str, Any]:
    """Euler's distance to the truth as steps grow, without guidance."""
    result: dict[str, Any] = {}
    for path_name, path in PATHS.items():
        bench = Bench.of(toy_a(), path)
        for arm in corrections(path):
            result.setdefault(path_name, {})[arm.name] = [bench(arm, 1.0, steps) for steps in REFINED]
    return result


def guided() -> dict[str, Any]:
    """Every rule over its scales at equal rows: Toy A exact, Toy A with a class leak of 40 %, Toy B exact."""
    rules = (LOG_SNR, UNIPC, UNIPC_LOG_SNR, CFG_PLUS_PLUS, INTERVAL_CFG, PROJECTED)
    setups = (("A", toy_a(), 0.0), ("A, 40 % leak", toy_a(), 0.4), ("B", toy_b(), 0.0))
    result: dict[str, Any] = {}
    for toy_name, toy, leak in setups:
        for path_name, path in PATHS.items():
            bench = Bench.of(toy, path, leak)
            for arm in (*corrections(path), *rules):
                scales = TOY_LAMBDAS if arm is CFG_PLUS_PLUS else TOY_SCALES
                runs = [bench(arm, scale, steps_within(GUIDED_ROWS, arm, scale, path)) for scale in scales]
                result.setdefault(toy_name, {}).setdefault(path_name, {})[arm.name] = runs
    return result
