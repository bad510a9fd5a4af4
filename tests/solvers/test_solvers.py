"""Solvers: order of convergence, cost, exact ends, and the same answer from different frames."""

import functools
import itertools
import math

import pytest
import torch

from dit.diffusion import DiscreteVP, LinearFlow
from dit.solvers import RK4, Euler, Heun, Midpoint, make_grid, sample
from dit.solvers.grid import check_grid
from tests.exact import PATHS, Gaussian, Mixture

SOLVERS = [Euler()] + [leaf(clock) for leaf in (Heun, Midpoint, RK4) for clock in ("rectified", "u")]
NAMES = [f"{type(s).__name__} {getattr(s, 'clock', '')}".strip() for s in SOLVERS]


def walk(solver, denoiser, x, grid):
    """x at the end of a grid that need not start at noise or end at data."""
    state = solver.init(x)
    for t, t_next in itertools.pairwise(grid):
        x, state = solver.step(lambda x, t: denoiser(x, t), denoiser.path, x, t, t_next, state, None)
    return x


def slope(errors):
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


def levels(path, first, last, steps):
    """t at equal steps of log-SNR."""
    return path.t_from_log_snr(torch.linspace(first, last, steps + 1, dtype=torch.float64))


@functools.cache
def mixture_truth(name):
    """Where the flow of the mixture ends, from 4,096 steps of RK4 in each of two clocks that must agree."""
    denoiser = Mixture(PATHS[name])
    noise = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    grid = levels(denoiser.path, -2 * math.log(14.4), -2 * math.log(0.05), 4096)
    x = denoiser.path.coefficients(grid[0]).sigma * noise
    ends = [walk(RK4(clock), denoiser, x, grid) for clock in ("u", "rectified")]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-10)
    return x, ends[0]


@pytest.mark.parametrize("kind", ["eps", "velocity"])
@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_global_order(solver, kind):
    """Slope over 32 ... 256 steps on a mixture, sigma/alpha from 14.4 to 0.05, on a variance-preserving path."""
    denoiser, errors = Mixture(PATHS["trigonometric"], kind), []
    x, truth = mixture_truth("trigonometric")
    for steps in (64, 128, 256):
        grid = levels(denoiser.path, -2 * math.log(14.4), -2 * math.log(0.05), steps)
        errors.append(float((walk(solver, denoiser, x, grid) - truth).norm()))
    assert slope(errors) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_global_order_on_a_flow_is_at_least_nominal(solver):
    denoiser, errors = Mixture(PATHS["flow"], "velocity"), []
    x, truth = mixture_truth("flow")
    for steps in (64, 128, 256):
        grid = levels(denoiser.path, -2 * math.log(14.4), -2 * math.log(0.05), steps)
        errors.append(float((walk(solver, denoiser, x, grid) - truth).norm()))
    assert slope(errors) > solver.order - 0.15


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_local_order_with_unequal_steps(solver):
    """One step of length h after one of h/3: the error of the second alone falls as h^(order + 1)."""
    denoiser, errors = Mixture(PATHS["trigonometric"]), []
    x, _ = mixture_truth("trigonometric")
    x = walk(RK4(), denoiser, x, levels(denoiser.path, -2 * math.log(14.4), 0.0, 512))
    for h in (0.4, 0.2, 0.1):
        grid = levels(denoiser.path, 0.0, h / 3, 1).tolist() + levels(denoiser.path, h / 3, h / 3 + h, 1)[1:].tolist()
        grid = torch.tensor(grid, dtype=torch.float64)
        here = walk(RK4(), denoiser, x, levels(denoiser.path, 0.0, h / 3, 64))
        exact = walk(RK4(), denoiser, here, levels(denoiser.path, h / 3, h / 3 + h, 128))
        errors.append(float((walk(solver, denoiser, here, grid[1:]) - exact).norm()))
    assert slope(errors) == pytest.approx(solver.order + 1, abs=0.25)


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
    torch.testing.assert_close(many.x0, 0.7 + 0.5 * noise, rtol=0, atol=0.02 if solver.order == 1 else 5e-4)


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


@pytest.mark.parametrize("spacing", ["uniform", "log_snr", "karras"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_every_grid_falls_to_clean_data_on_every_path(path, spacing, steps):
    grid = make_grid(path, steps, spacing)
    assert len(grid) == steps + 1
    assert (grid.diff() < 0).all()
    assert float(grid[-1]) == 0


def test_grids_have_the_levels_of_their_papers():
    flow = LinearFlow()
    shifted = make_grid(flow, 10, "shifted", shift=3.0)
    t = torch.linspace(1, 0, 11, dtype=torch.float64)
    torch.testing.assert_close(shifted, 3 * t / (1 + 2 * t), rtol=0, atol=1e-12)  # SD3's t' = s t / (1 + (s - 1) t)
    karras = make_grid(flow, 18, "karras", u_max=80.0, u_min=0.002)
    c = flow.coefficients(karras)
    i = torch.arange(18, dtype=torch.float64)
    edm = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close((c.sigma / c.alpha)[:-1], edm, rtol=1e-9, atol=0)
    steps = flow.log_snr(make_grid(flow, 7, "log_snr", first=-6, last=6)[:-1])
    torch.testing.assert_close(steps, torch.linspace(-6, 6, 7, dtype=torch.float64), rtol=0, atol=1e-9)
    # A table ends where it ends: its own last level, not the grid's.
    assert float(make_grid(PATHS["scaled_linear"], 5, "karras")[0]) == pytest.approx(1)


def test_bad_grids_are_refused():
    path = LinearFlow()
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        make_grid(path, 0)
    with pytest.raises(ValueError, match=r"spacing must be one of uniform, shifted, log_snr, karras, got 'linear'"):
        make_grid(path, 5, "linear")
    with pytest.raises(ValueError, match=r"grid\.first must be below grid\.last"):
        make_grid(path, 5, "log_snr", first=3, last=1)
    with pytest.raises(ValueError, match=r"grid\.u_min must lie between 0 and grid\.u_max=1, got 2"):
        make_grid(path, 5, "karras", u_max=1, u_min=2)
    with pytest.raises(ValueError, match=r"grid\.shift must be positive, got 0"):
        make_grid(path, 5, "shifted", shift=0)
    with pytest.raises(ValueError, match="grid must fall strictly"):
        make_grid(PATHS["scaled_linear"], 20, "shifted", shift=50)
    for bad in ([0.0, 1.0], [1.0, 1.0], [0.5], [2.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="grid must fall strictly"):
            sample(Gaussian(path), torch.zeros(1, 2), grid=torch.tensor(bad))
