"""What is compared, and what it may cost: an arm is a rule, a solver, a grid and a start, at a budget of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from dit.diffusion import Denoiser, GaussianPath
from dit.solvers import (
    APG,
    CFG,
    TNR,
    CFGPlusPlus,
    Euler,
    Grid,
    Guidance,
    Interval,
    LogSNRGrid,
    Solver,
    UniformGrid,
    UniPC,
    sample,
)
from dit.solvers.sampler import STARTS

INTERVAL = (-3.0, 3.0)


@dataclass(frozen=True)
class Arm:
    """A sampler whose guidance scale is still open. guided: scale -> rule."""

    name: str
    guided: Callable[[float], Guidance]
    solver: Solver = field(default_factory=Euler)
    grid: Grid = field(default_factory=UniformGrid)
    init: Literal["noise", "mean"] = "noise"


CFG_EULER = Arm("CFG", CFG)
CFG_PLUS_PLUS = Arm("CFG++", CFGPlusPlus)
TNR_ALL = Arm("TNR(CFG)", lambda scale: TNR(CFG(scale)))
TNR_GATED = Arm("TNR(CFG), u > 2", lambda scale: TNR(CFG(scale), u_min=2.0))
INTERVAL_CFG = Arm("Interval(CFG)", lambda scale: Interval(CFG(scale), INTERVAL))
PROJECTED = Arm("APG", APG)
MEAN_START = Arm("CFG, mean start", CFG, init="mean")
UNIPC = Arm("CFG, UniPC-2", CFG, solver=UniPC(2))
LOG_SNR = Arm("CFG, log-SNR grid", CFG, grid=LogSNRGrid())
UNIPC_LOG_SNR = Arm("CFG, UniPC-2, log-SNR grid", CFG, solver=UniPC(2), grid=LogSNRGrid())

AT_SCALE_1 = {
    "CFG": "plain",
    "TNR(CFG)": "TNR",
    "TNR(CFG), u > 2": "TNR, u > 2",
    "CFG, mean start": "mean start",
}  # what they are called where nothing is guided


def keeps_signal(path: GaussianPath) -> bool:
    """Whether the path ends before pure noise; elsewhere the mean start is the start from noise."""
    return float(path.coefficients(torch.ones((), dtype=torch.float64)).alpha) > 0


def steps_within(rows: int, arm: Arm, scale: float, path: GaussianPath) -> int:
    """The most steps that cost at most `rows` network rows an image."""

    def cost(steps: int) -> float:
        stand_in = Denoiser(lambda x, t, labels: 1.0 + labels[:, None], path, "x0", null_label=1)
        noise, labels, grid = torch.ones(1, 1), torch.zeros(1, dtype=torch.int64), arm.grid(path, steps)
        run = sample(
            stand_in, noise, labels, grid=grid, solver=arm.solver, guidance=arm.guided(scale), start=STARTS[arm.init]
        )  # fmt: skip
        return run.nfe.rows

    steps = rows
    while (spent := cost(steps)) > rows:
        steps = max(1, min(steps - 1, int(steps * rows / spent)))
    while cost(steps + 1) <= rows:
        steps += 1
    return steps
