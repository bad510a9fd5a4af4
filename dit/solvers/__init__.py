"""THE REVERSE PROCESS: grids, solvers, guidance and the one sampling loop, usable with anybody's network."""

from dit.solvers.grid import Grid, KarrasGrid, LogSNRGrid, ShiftedGrid, UniformGrid, make_grid
from dit.solvers.guidance import CFG, TNR, Denoise, Guidance, Interval, StepContext
from dit.solvers.noise import ImageNoise
from dit.solvers.ode import RK4, Euler, Heun, Midpoint, Solver, SolverState
from dit.solvers.sample import NFE, Sampler, Samples, sample

__all__ = [
    "CFG",
    "NFE",
    "RK4",
    "TNR",
    "Denoise",
    "Euler",
    "Grid",
    "Guidance",
    "Heun",
    "ImageNoise",
    "Interval",
    "KarrasGrid",
    "LogSNRGrid",
    "Midpoint",
    "Sampler",
    "Samples",
    "ShiftedGrid",
    "Solver",
    "SolverState",
    "StepContext",
    "UniformGrid",
    "make_grid",
    "sample",
]
