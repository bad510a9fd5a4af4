"""Deterministic solvers: order of convergence, cost, exact ends, and the same answer from different frames."""

import functools
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch

from dit.diffusion import DiscreteVP, LinearFlow
from dit.solvers import (
    DDIM,
    RK4,
    RK38,
    DPMSolver2,
    DPMSolverPP,
    Euler,
    Heun,
    Midpoint,
    SDEDPMSolverPP,
    UniPC,
    make_grid,
    sample,
)
from dit.solvers.multistep import _moment
from tests.exact import FIRST, LAST, PATHS, Gaussian, Mixture, levels, mixture_truth, slope, walk

# Each solver with its order of convergence; UniPC's corrector makes it one higher than its name.
SOLVERS = {
    "Euler": (Euler(), 1),
    "DDIM 0": (DDIM(0.0), 1),
    "SDE-DPM++ 1, eta 0": (SDEDPMSolverPP(1, eta=0.0), 1),
    **{
        f"{leaf.__name__} {clock}": (leaf(clock), order)
        for leaf, order in ((Heun, 2), (Midpoint, 2), (RK4, 4), (RK38, 4))
        for clock in ("rectified", "u")
    },
    "DPM-Solver-2": (DPMSolver2(), 2),
    "DPM++ 2S": (DPMSolverPP(2, multistep=False), 2),
    "DPM++ 2M midpoint": (DPMSolverPP(2), 2),
    "DPM++ 2M heun": (DPMSolverPP(2, variant="heun"), 2),
    "DPM++ 3M": (DPMSolverPP(3), 3),
    "SDE-DPM++ 2M, eta 0": (SDEDPMSolverPP(2, eta=0.0), 2),
    "UniPC-1": (UniPC(1), 2),
    "UniPC-2": (UniPC(2), 3),
    "UniPC-3": (UniPC(3), 4),
}
EACH = pytest.mark.parametrize(("solver", "order"), SOLVERS.values(), ids=SOLVERS)


def global_slope(solver, name, kind, steps):
    denoiser, errors = Mixture(PATHS[name], kind), []
    x, truth = mixture_truth(name)
    for count in (steps, 2 * steps):
        errors.append(float((walk(solver, denoiser, x, levels(denoiser.path, FIRST, LAST, count)) - truth).norm()))
    return slope(errors)


@EACH
def test_global_order(solver, order):
    # UniPC-3 comes down to its order from above, and late.
    steps = 256 if solver == UniPC(3) else 64
    assert global_slope(solver, "vp_scaled", "eps", steps) == pytest.approx(order, abs=0.15)


@EACH
def test_global_order_on_a_flow_is_at_least_nominal(solver, order):
    assert global_slope(solver, "flow", "velocity", 64) > order - 0.15


@functools.cache
def exact_points(h):
    """A denoiser and (t, x) on its trajectory after unequal steps of about h in log-SNR, the last h, from -1.5 on."""
    denoiser, (x, _) = Mixture(PATHS["vp_scaled"]), mixture_truth("vp_scaled")
    at = -1.5
    x = walk(RK4(), denoiser, x, levels(denoiser.path, FIRST, math.exp(-at / 2), 32))  # every x is on some trajectory
    points = [(denoiser.path.t_from_log_snr(torch.tensor(at, dtype=torch.float64)), x)]
    for part in (0.8, 0.7, 0.4, 0.9, 1.0):
        at += part * h
        t = denoiser.path.t_from_log_snr(torch.tensor(at, dtype=torch.float64))
        points.append((t, carried(denoiser, *points[-1], t)))
    return denoiser, points


def carried(denoiser, t, x, t_next):
    """x at t_next, by 8 small steps of RK4: 4,096 times as exact as the one step of a solver of order 4."""
    ends = (math.exp(-float(denoiser.path.log_snr(at)) / 2) for at in (t, t_next))
    return walk(RK4(), denoiser, x, levels(denoiser.path, *ends, 8))


def local_errors(solver, h):
    """Of the last step from exact points, and of what a corrector made of the step before it, or None without one."""
    denoiser, points = exact_points(h)
    state = solver.init(points[0][1], torch.stack([t for t, _ in points]))
    starts = []
    for (t, x), (t_next, _) in pairwise(points):
        if isinstance(solver, UniPC) and len(starts) == 4:
            x = got  # noqa: F821
        got, state = solver.step(lambda x, t, *_: denoiser(x, t), denoiser.path, x, t, t_next, state, None)
        starts.append(state.memory[0].x if isinstance(solver, UniPC) else x)
    if not isinstance(solver, UniPC):
        return float((got - points[5][1]).norm()), None
    corrected = carried(denoiser, points[3][0], starts[3], points[4][0]) - starts[4]
    return float((got - carried(denoiser, points[4][0], starts[4], points[5][0])).norm()), float(corrected.norm())


@EACH
def test_local_order_with_unequal_steps(solver, order):
    """A step of length h after ones of 0.8 h, 0.7 h, 0.4 h and 0.9 h: its own error falls as h^(order + 1).

    UniPC's last step is not corrected and one order lower; the one before, corrected, has the full order.
    """
    errors = [local_errors(solver, h) for h in (0.1, 0.05, 0.025)]
    corrects = isinstance(solver, UniPC)
    assert slope_at_zero([e for e, _ in errors]) == pytest.approx(order + 1 - corrects, abs=0.15)
    if corrects:
        assert slope_at_zero([e for _, e in errors]) == pytest.approx(order + 1, abs=0.15)


def slope_at_zero(errors):
    """The slopes of two halvings, extrapolated: a slope differs from the order by a multiple of the step."""
    return 2 * slope(errors[1:]) - slope(errors[:2])


def test_the_middle_of_a_stage_is_the_middle_of_its_clock():
    """RK4 with the middle stage at the middle of t is of order 2, as in the notebook that began TNR."""
    denoiser, errors = Mixture(PATHS["vp_scaled"]), []
    x, truth = mixture_truth("vp_scaled")

    class Mislaid(type(denoiser.path)):
        def t_from_log_snr(self, log_snr):
            # The solver asks for the middle of sigma/alpha and is told the middle of t.
            return self.middle

    for steps in (64, 128, 256):
        grid, y = levels(denoiser.path, FIRST, LAST, steps), x
        for t, t_next in pairwise(grid):
            path = Mislaid(0.85, 12.0, power=2)
            object.__setattr__(path, "middle", (t + t_next) / 2)
            y, _ = RK4("u").step(lambda x, t, *_: denoiser(x, t), path, y, t, t_next, RK4("u").init(y, grid), None)
        errors.append(float((y - truth).norm()))
    assert slope(errors) == pytest.approx(2, abs=0.2)


@EACH
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_calls_are_counted_and_as_declared(solver, order, steps):
    denoiser = Gaussian(PATHS["scaled_linear"])
    result = sample(denoiser, torch.randn(3, 2), grid=make_grid(denoiser.path, steps), solver=solver)
    # The step that ends at clean data is an Euler step; 3M starts with one step of 2S.
    expected = solver.evaluations * (steps - 1) + 1 + (solver == DPMSolverPP(3) and steps > 1)
    assert (denoiser.calls, result.nfe.evaluations, result.nfe.rows) == (expected, expected, expected)
    assert denoiser.rows == 3 * expected


def test_euler_is_ddim_and_is_rectified_euler():
    """Three homes of one update: x1 = alpha1 x0 + sigma1 eps, dz/du = eps, and x + dt velocity on a flow."""
    flow = Gaussian(LinearFlow())
    x, t, t_next = torch.randn(6, 3, dtype=torch.float64), torch.tensor(0.7).double(), torch.tensor(0.55).double()
    grid = torch.stack([t, t_next])
    torch.testing.assert_close(walk(Euler(), flow, x, grid), x + (t_next - t) * flow(x, t).velocity, rtol=0, atol=1e-14)
    for path in PATHS.values():
        denoiser = Gaussian(path)
        here, there = path.coefficients(t), path.coefficients(t_next)
        u, u_next = here.sigma / here.alpha, there.sigma / there.alpha
        expected = there.alpha * (x / here.alpha + (u_next - u) * denoiser(x, t).eps)
        for solver in (Euler(), DDIM(0.0), SDEDPMSolverPP(1, eta=0.0), DPMSolverPP(2), UniPC(3)):
            torch.testing.assert_close(walk(solver, denoiser, x, grid), expected, rtol=1e-12, atol=1e-12)


def test_the_3_8_rule_is_what_torchdiffeq_calls_rk4():
    """On a flow the clock is its own time; the classical rule differs in the eighth step by far more than rounding."""
    odeint = pytest.importorskip("torchdiffeq").odeint
    denoiser, x = Mixture(LinearFlow(), "velocity"), torch.randn(8, 2, dtype=torch.float64)
    grid = torch.linspace(0.95, 0.1, 9, dtype=torch.float64)
    theirs = odeint(lambda t, x: denoiser(x, t).velocity, x, grid, method="rk4")[-1]
    torch.testing.assert_close(walk(RK38(), denoiser, x, grid), theirs, rtol=0, atol=1e-12)
    assert float((walk(RK4(), denoiser, x, grid) - theirs).abs().max()) > 1e-6


def test_order_3_is_lowered_in_long_steps_alone():
    """On 10 of Karras' levels most steps are longer than 1.5 in log-SNR, on 100 of equal length none is."""
    path = LinearFlow()
    denoiser, x = Mixture(path, "velocity"), torch.randn(64, 2, dtype=torch.float64)

    def end(solver, grid):
        return sample(denoiser, x, grid=grid, solver=solver).x0

    few, many = make_grid(path, 10, "karras"), make_grid(path, 100, "uniform_log_snr")
    truth = end(UniPC(2), make_grid(path, 150, "karras"))
    for solver, second in ((partial(DPMSolverPP, 3), DPMSolverPP(2)), (partial(UniPC, 3), UniPC(2))):
        lowered, third = end(solver(), few), end(solver(lower_above=None), few)
        errors = [float((x0 - truth).square().mean().sqrt()) for x0 in (lowered, third, end(Euler(), few))]
        assert errors[0] < 1.1 * errors[2] < errors[1]
        assert torch.equal(end(solver(), many), end(solver(lower_above=None), many))
        assert not torch.equal(end(solver(), many), end(second, many))
        # An order that is not 3 is never lowered.
        assert torch.equal(end(second, few), end(replace(second, lower_above=None), few))
    torch.testing.assert_close(end(UniPC(3), few), end(UniPC(2), few), rtol=0, atol=0.02)


def test_one_formula_under_two_names():
    """SDE-DPM++ without noise is DPM++ 2M."""
    for name in ("linear", "flow"):
        denoiser = Mixture(PATHS[name], "v")
        grid, x = levels(PATHS[name], 10.0, 0.1, 9), torch.randn(7, 2, dtype=torch.float64)
        both = [walk(s, denoiser, x, grid) for s in (SDEDPMSolverPP(2, eta=0.0), DPMSolverPP(2))]
        torch.testing.assert_close(*both, rtol=0, atol=1e-12)


@pytest.mark.parametrize("power", [0, 1, 2, 3])
@pytest.mark.parametrize("h", [1e-6, 0.01, 0.9, 1.1, 7.0])
def test_moments_are_the_integrals_they_stand_for(power, h):
    s = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    quadrature = float((h * torch.exp(-h * (1 - s)) * s**power).mean())
    assert _moment(power, h) == pytest.approx(quadrature, rel=1e-8)


@EACH
def test_gauge_the_same_noise_levels_give_the_same_picture_on_every_path(solver, order):
    """Data, solver and log-SNR levels fixed, the path is only a change of coordinates."""
    at = torch.linspace(-4, 4, 7, dtype=torch.float64)  # steps short enough for a parabola
    noise, results = torch.randn(5, 4, dtype=torch.float64), []
    for name, path in PATHS.items():
        if name in ("scaled_linear", "cosine", "sigmoid") and solver != Euler():
            continue  # tables like "linear"
        grid = torch.cat([path.t_from_log_snr(at), torch.zeros(1, dtype=torch.float64)])
        # Start from the same z = x/alpha, which every path scales its own way.
        results.append(walk(solver, Gaussian(path), path.coefficients(grid[0]).alpha * noise * math.exp(2), grid))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-9)


@EACH
@pytest.mark.parametrize("name", ["flow", "trigonometric", "zero_terminal_snr"])
def test_infinite_and_zero_noise_are_exact(solver, order, name):
    """From sigma/alpha = inf to 0, no epsilon anywhere: one step gives the mean, many give the whole law."""
    denoiser = Gaussian(PATHS[name], mean=0.7)
    noise = torch.randn(4, 2, dtype=torch.float64)
    one = sample(denoiser, noise, grid=make_grid(denoiser.path, 1), solver=solver)
    torch.testing.assert_close(one.x0, torch.full_like(one.x0, 0.7), rtol=0, atol=1e-13)
    # The first step and the last, of infinite length in log-SNR, are Euler steps that err by 5e-5.
    ends = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    grid = torch.cat([ends[0], levels(denoiser.path, 50.0, 0.005, 30), ends[1]])
    many = sample(denoiser, noise, grid=grid, solver=solver)
    atol = {1: 0.1, 2: 0.02}.get(order, 3e-3)
    torch.testing.assert_close(many.x0, 0.7 + 0.5 * noise, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("linear", 1000), ("scaled_linear", 100), ("cosine", 100), ("sigmoid", 100), ("zero_terminal_snr", 100)],
)
def test_no_signal_is_lost_over_a_whole_table(name, steps):
    """Euler steps through all entries, or every tenth, bring a constant back exactly (the off-by-one loses 93 %)."""
    denoiser = Gaussian(PATHS[name], kind="x0", mean=2.5, std=0.0)
    out = sample(denoiser, torch.randn(3, 2, dtype=torch.float64), grid=make_grid(PATHS[name], steps))
    torch.testing.assert_close(out.x0, torch.full_like(out.x0, 2.5), rtol=0, atol=1e-11)


def test_signal_ratios_include_both_ends_of_the_table():
    """alpha_t / alpha_s = sqrt(product of 1 - beta over s + 1 ... t, inclusive)."""
    betas = torch.linspace(8.5e-4**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    path = DiscreteVP(betas.tolist())
    for s, t in ((0, 1), (3, 700), (998, 999)):
        alphas = path.coefficients(torch.tensor([(s + 1) / 1000, (t + 1) / 1000], dtype=torch.float64)).alpha
        assert float(alphas[1] / alphas[0]) == pytest.approx(float((1 - betas[s + 1 : t + 1]).prod().sqrt()), rel=1e-11)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
def test_euler_under_disperses_by_its_factor(std):
    """On Gaussian data a step multiplies the spread by (s^2 + u0 u1) / (s^2 + u0^2), less than the truth."""
    path = PATHS["edm"]
    grid = levels(path, 10.0, 4.0, 1)
    u = path.coefficients(grid).sigma
    z = torch.tensor([[1.0]], dtype=torch.float64)
    got = float(walk(Euler(), Gaussian(path, mean=0.0, std=std), z, grid))
    assert got == pytest.approx(float((std**2 + u[0] * u[1]) / (std**2 + u[0] ** 2)), rel=1e-12)
    assert got < float(((std**2 + u[1] ** 2) / (std**2 + u[0] ** 2)) ** 0.5)


@EACH
def test_solvers_reproduce_a_gaussian_from_its_exact_start(solver, order):
    """N(0.7, 0.5^2) at sigma/alpha = 14.4 arrives as itself at 0.05, to the solver's order."""
    path = PATHS["vp"]
    denoiser, errors = Gaussian(path), []
    first = 50 if solver == UniPC(3) else 25  # it comes to its order late
    for steps in (first, 2 * first):
        grid = levels(path, FIRST, LAST, steps)
        here = path.coefficients(grid[0])
        spread = (here.alpha**2 * 0.25 + here.sigma**2).sqrt()
        x = here.alpha * 0.7 + spread * torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
        errors.append(float((walk(solver, denoiser, x, grid) - denoiser.solution(x, grid[0], grid[-1])).norm()))
    assert slope(errors) > order - 0.2
    assert errors[-1] < {1: 0.04, 2: 4e-3}.get(order, 2e-4)


def test_bad_settings_of_solvers_are_refused():
    for order, multistep in ((1, True), (4, True), (3, False)):
        with pytest.raises(ValueError, match=r"solver\.order must be 2, or 3 with solver\.multistep=true"):
            DPMSolverPP(order, multistep)
    with pytest.raises(ValueError, match=r"solver\.variant must be midpoint or heun, got 'x'"):
        DPMSolverPP(2, variant="x")
    with pytest.raises(ValueError, match=r"solver\.order must be 1, 2 or 3, got 4"):
        UniPC(4)
    for make in (DPMSolverPP, UniPC):
        with pytest.raises(ValueError, match=r"solver\.lower_above must be positive, a log-SNR, or null for .* got 0"):
            make(lower_above=0)
    with pytest.raises(ValueError, match=r"solver\.clock must be rectified or u, got 't'"):
        Heun("t")
