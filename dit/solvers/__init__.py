"""THE REVERSE PROCESS: grids, solvers, guidance and the one sampling loop, usable with anybody's network."""

from dit.solvers.grid import make_grid
from dit.solvers.guidance import CFG, Denoise, Guidance, StepContext
from dit.solvers.noise import ImageNoise
from dit.solvers.ode import Euler, Heun, Solver, SolverState
from dit.solvers.sample import NFE, Sampler, Samples, sample

__all__ = [
    "CFG",
    "NFE",
    "Denoise",
    "Euler",
    "Guidance",
    "Heun",
    "ImageNoise",
    "Sampler",
    "Samples",
    "Solver",
    "SolverState",
    "StepContext",
    "make_grid",
    "sample",
]
