"""Solvers: order of convergence, cost, exact ends, and the same answer from different frames."""

import itertools
import math

import pytest
import torch

from dit.diffusion import DiscreteVP, LinearFlow
from dit.solvers import Euler, Heun, make_grid, sample
from dit.solvers.grid import check_grid
from tests.exact import PATHS, Gaussian, Trigonometric

SOLVERS = [Euler(), Heun()]
NAMES = [type(s).__name__ for s in SOLVERS]


def walk(solver, denoiser, x, grid):
    """x at the end of a grid that need not start at noise or end at data."""
    state = solver.init(x)
    for t, t_next in itertools.pairwise(grid):
        x, state = solver.step(lambda x, t: denoiser(x, t), denoiser.path, x, t, t_next, state, None)
    return x


def slope(errors):
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


@pytest.mark.parametrize("kind", ["eps", "x0", "velocity"])
@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_global_order(solver, kind):
    """Slope over 32 ... 256 steps on N(0.7, 0.25): the trigonometric path has no accidental super-convergence there."""
    denoiser, errors = Gaussian(Trigonometric(), kind), []
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for steps in (32, 64, 128, 256):
        grid = torch.linspace(0.98, 0.02, steps + 1, dtype=torch.float64)
        exact = denoiser.solution(x, grid[0], grid[-1])
        errors.append(float((walk(solver, denoiser, x, grid) - exact).abs().max()))
    assert slope(errors) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_global_order_on_a_flow_is_at_least_nominal(solver):
    denoiser, errors = Gaussian(LinearFlow()), []
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for steps in (32, 64, 128, 256):
        grid = torch.linspace(0.98, 0.02, steps + 1, dtype=torch.float64)
        errors.append(float((walk(solver, denoiser, x, grid) - denoiser.solution(x, grid[0], grid[-1])).abs().max()))
    assert slope(errors) > solver.order - 0.15


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_local_order_with_unequal_steps(solver):
    """One step of length h after one of h/3: the error of the second alone falls as h^(order + 1)."""
    denoiser, errors = Gaussian(Trigonometric()), []
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for h in (0.08, 0.04, 0.02, 0.01):
        grid = torch.tensor([0.6 + h / 3, 0.6, 0.6 - h], dtype=torch.float64)
        exact = denoiser.solution(x, grid[0], grid[1])
        after = walk(solver, denoiser, exact, grid[1:])
        errors.append(float((after - denoiser.solution(exact, grid[1], grid[2])).abs().max()))
    assert slope(errors) == pytest.approx(solver.order + 1, abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_calls_are_counted_and_as_declared(solver, steps):
    denoiser = Gaussian(LinearFlow())
    result = sample(denoiser, torch.randn(3, 2), grid=make_grid(denoiser.path, steps), solver=solver)
    # The step that ends at clean data is an Euler step.
    expected = solver.evaluations * (steps - 1) + 1
    assert (denoiser.calls, result.nfe.evaluations, result.nfe.rows) == (expected, expected, expected)
    assert denoiser.rows == 3 * expected


def test_euler_is_ddim_and_is_rectified_euler():
    """Three homes of one update: x1 = alpha1 x0 + sigma1 eps, dz/du = eps, and x + dt velocity on a flow."""
    flow = Gaussian(LinearFlow())
    x, t, t_next = torch.randn(6, 3, dtype=torch.float64), torch.tensor(0.7).double(), torch.tensor(0.55).double()
    (ours, _) = Euler().step(lambda x, t: flow(x, t), flow.path, x, t, t_next, Euler().init(x), None)
    torch.testing.assert_close(ours, x + (t_next - t) * flow(x, t).velocity, rtol=0, atol=1e-14)
    for path in PATHS.values():
        denoiser = Gaussian(path)
        here, there = path.coefficients(t), path.coefficients(t_next)
        (ours, _) = Euler().step(lambda x, t, d=denoiser: d(x, t), path, x, t, t_next, Euler().init(x), None)
        u, u_next = here.sigma / here.alpha, there.sigma / there.alpha
        z = x / here.alpha + (u_next - u) * denoiser(x, t).eps
        torch.testing.assert_close(ours, there.alpha * z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_gauge_the_same_noise_levels_give_the_same_picture_on_every_path(solver):
    """Data, solver and log-SNR levels fixed, the path is only a change of coordinates."""
    levels = torch.linspace(-5, 7, 12, dtype=torch.float64)
    noise = torch.randn(5, 4, dtype=torch.float64)
    results = []
    for path in PATHS.values():
        grid = torch.cat([path.t_from_log_snr(levels), torch.zeros(1, dtype=torch.float64)])
        c = path.coefficients(grid[0])
        # Start from the same z = x/alpha, which every path scales its own way.
        z = noise * math.exp(2.5)
        results.append(walk(solver, Gaussian(path), c.alpha * z, grid))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_infinite_and_zero_noise_are_exact(solver):
    """Flow starts at sigma/alpha = inf and ends at 0: no epsilon anywhere, and one step gives the mean."""
    denoiser = Gaussian(LinearFlow(), mean=0.7)
    one = sample(denoiser, torch.randn(4, 2, dtype=torch.float64), grid=make_grid(denoiser.path, 1), solver=solver)
    torch.testing.assert_close(one.x0, torch.full_like(one.x0, 0.7), rtol=0, atol=1e-14)
    noise = torch.randn(4, 2, dtype=torch.float64)
    many = sample(denoiser, noise, grid=make_grid(denoiser.path, 400), solver=solver)
    torch.testing.assert_close(many.x0, 0.7 + 0.5 * noise, rtol=0, atol=0.02 if solver.order == 1 else 2e-4)


def test_no_signal_is_lost_over_a_whole_table():
    """999 Euler steps through all table entries bring a constant back exactly (the off-by-one loses 93 %)."""
    path = DiscreteVP.scaled_linear()
    denoiser = Gaussian(path, kind="x0", mean=2.5, std=0.0)
    out = sample(denoiser, torch.randn(3, 2, dtype=torch.float64), grid=make_grid(path, 1000))
    torch.testing.assert_close(out.x0, torch.full_like(out.x0, 2.5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("steps", [1, 3, 250])
def test_a_grid_of_n_steps_has_n_plus_one_falling_levels(path, steps):
    grid = make_grid(path, steps)
    assert grid.dtype == torch.float64
    assert len(grid) == steps + 1
    assert (grid.diff() < 0).all()
    assert (float(grid[0]), float(grid[-1])) == (1.0, 0.0)
    check_grid(grid)


def test_bad_grids_are_refused():
    path = LinearFlow()
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        make_grid(path, 0)
    with pytest.raises(ValueError, match=r"grid\.spacing must be one of uniform, got 'karras'"):
        make_grid(path, 5, "karras")
    for bad in ([0.0, 1.0], [1.0, 1.0], [0.5], [2.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="grid must fall strictly"):
            sample(Gaussian(path), torch.zeros(1, 2), grid=torch.tensor(bad))
