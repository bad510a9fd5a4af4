"""Stochastic solvers: the processes of their papers, weak order, and an exact account of the noise inside x."""

import math
from itertools import pairwise

import pytest
import torch

from dit.diffusion import Denoiser, DiscreteVP, LinearFlow, Prediction
from dit.solvers import (
    CFG,
    DDIM,
    TNR,
    Ancestral,
    Churn,
    Euler,
    EulerMaruyama,
    Heun,
    ImageNoise,
    Langevin,
    SDEDPMSolverPP,
    TableGrid,
    UniPC,
    make_grid,
    sample,
)
from dit.solvers.solver import SolverState
from dit.solvers.start import FromState
from tests.exact import PATHS, Gaussian, Mixture, levels, slope, walk

FORMS = ["sbdm", "constant", "sigma", "linear", "decreasing", "increasing_decreasing"]
STOCHASTIC = {
    "DDIM 1": DDIM(1.0),
    "DDIM 0.4": DDIM(0.4),
    "DDPM small": Ancestral("small"),
    "DDPM large": Ancestral("large"),
    "SDE-DPM++ 1": SDEDPMSolverPP(1),
    "SDE-DPM++ 2M": SDEDPMSolverPP(2, eta=0.7),
    **{f"EM {form}": EulerMaruyama(form) for form in FORMS},
    "churn": Churn(20.0),
    "Langevin": Langevin(),
}
EACH = pytest.mark.parametrize("solver", STOCHASTIC.values(), ids=STOCHASTIC)


def source(count, shape, seed=0):
    return ImageNoise(seed, range(count), shape, dtype=torch.float64)


def trajectory(solver, denoiser, steps, shape=(4000,), guidance=None):
    """(true noise, x, t) after every step."""
    noise, grid = source(1, shape), make_grid(denoiser.path, steps)
    first, kept = noise.draw(), []
    sample(
        denoiser,
        first,
        grid=grid,
        solver=solver,
        step_noise=noise.draw,
        guidance=guidance,
        on_step=lambda c, x: kept.append((c, x)),
    )
    # A step's context holds the noise at its start: that of the step before is the one at its end.
    return [(after.true_noise, x, after.t) for (_, x), (after, _) in pairwise(kept)], first


@EACH
@pytest.mark.parametrize("name", ["scaled_linear", "flow"])
def test_the_true_noise_has_unit_variance_and_is_what_x_contains(solver, name):
    """On data that is one point, x = alpha y + sigma e with the same y in every pixel, if e is all the noise there is.

    Exact for the exponential solvers, to the step's error for the others. Euler-Maruyama with "constant" near data and
    "sbdm" near pure noise is too stiff for one point at any number of uniform steps: there only e itself is looked at.
    """
    path, spreads = PATHS[name], []
    for steps in (20, 80):
        points, first = trajectory(solver, Gaussian(path, "v", mean=0.7, std=0.0), steps)
        for noise, _, _ in points:
            # The chi-square law of a variance at 4 standard errors, for 200 looks.
            assert float(noise.var()) == pytest.approx(1, abs=4 * (2 / noise.numel()) ** 0.5)
            assert float(noise.mean()) == pytest.approx(0, abs=4 / noise.numel() ** 0.5)
        assert not torch.equal(points[-1][0], first)
        assert float((points[-1][0] * first).mean()) < 0.99
        c = [path.coefficients(t) for _, _, t in points]
        spreads.append(
            max(float(((x - k.sigma * e) / (k.alpha + k.sigma)).std()) for (e, x, _), k in zip(points, c, strict=True))
        )
    if isinstance(solver, Langevin):
        assert max(spreads) < 0.02
    elif isinstance(solver, EulerMaruyama) or solver == Ancestral("large"):
        stiff = solver.diffusion in ("constant", "sbdm") if isinstance(solver, EulerMaruyama) else False
        assert stiff or spreads[1] < min(0.6 * spreads[0], 0.07)
    else:
        assert max(spreads) < 1e-10


@pytest.mark.parametrize(
    "solver", [DDIM(1.0), SDEDPMSolverPP(1), Churn(20.0), Langevin(DDIM(1.0), snr=0.05)], ids=lambda s: type(s).__name__
)
def test_true_noise_removal_knows_the_noise_of_each_stage(solver):
    """Where a step draws noise before it asks (churn, a corrector), a rule is told of it: y stays free of noise."""
    path = PATHS["linear"]
    points, _ = trajectory(solver, Gaussian(path, "v", mean=0.7, std=0.0), 20, guidance=TNR(CFG(1.0)))
    for noise, x, t in points:
        c = path.coefficients(t)
        spread = float(((x - c.sigma * noise) / (c.alpha + c.sigma)).std())
        assert spread < (1e-4 if isinstance(solver, Langevin) else 1e-10)


def test_an_ode_leaves_the_true_noise_alone():
    for solver in (Euler(), Heun(), UniPC(3), DDIM(0.0), SDEDPMSolverPP(2, eta=0.0), Churn(0.0)):
        points, first = trajectory(solver, Gaussian(PATHS["flow"]), 5, shape=(3,))
        assert all(noise is first for noise, _, _ in points)


def test_renewing_keeps_unit_variance_and_unknown_stays_unknown():
    old, fresh = torch.randn(2, 50_000)
    for share in (0.0, 0.3, 1.0):
        new = SolverState(old).renewed(share, fresh).true_noise
        assert float(new.var()) == pytest.approx(1, abs=0.03)
        assert float((new * fresh).mean()) == pytest.approx(share**0.5, abs=0.03)
    assert SolverState(None).renewed(0.5, fresh).true_noise is None


@pytest.mark.parametrize("name", ["linear", "edm", "flow", "zero_terminal_snr"])
def test_three_names_of_ancestral_sampling(name):
    """DDIM(1) = DDPM with the posterior's variance = SDE-DPM++ 1, draw for draw."""
    ends = []
    for solver in (DDIM(1.0), Ancestral("small"), SDEDPMSolverPP(1, eta=1.0)):
        noise = source(3, (5,))
        denoiser = Gaussian(PATHS[name], "v")
        first = noise.draw()
        out = sample(denoiser, first, grid=make_grid(denoiser.path, 12), solver=solver, step_noise=noise.draw)
        ends.append(out.x0)
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(ends[2], ends[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
@pytest.mark.parametrize("steps", [250, 50])
def test_ancestral_is_ddpm_on_the_betas_of_the_coarse_chain(variance, steps):
    """DiT's sampler, written out from Ho et al. (2020, eq. 6-7) and Nichol and Dhariwal (2021, eq. 15): kept entries
    define new betas, and mean and variance are those of the posterior of the new chain."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    kept = torch.tensor([round(i * 999 / (steps - 1)) for i in range(steps)])
    bar = alpha_bar[kept]
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    beta = 1 - bar / before
    posterior = beta * (1 - before) / (1 - bar)

    def network(x, time, labels):
        eps = torch.tanh(x[:, :1].expand_as(x) * 0.3 + time[:, None] / 1000)
        return torch.cat([eps, torch.cos(3 * x)], dim=1)

    draws = source(2, (3,)).draw, source(2, (3,)).draw
    x = start = draws[0]()
    draws[1]()
    for i in reversed(range(steps)):
        eps, v = network(x, kept[i].double().expand(2), None).chunk(2, dim=1)
        x0 = x / bar[i].sqrt() - (1 / bar[i] - 1).sqrt() * eps
        mean = (before[i].sqrt() * beta[i] * x0 + (1 - beta[i]).sqrt() * (1 - before[i]) * x) / (1 - bar[i])
        if variance == "learned":
            log = (v + 1) / 2 * beta[i].log() + (1 - v) / 2 * posterior[i].log()
        else:
            log = (posterior if variance == "small" else beta)[i].log()
        x = mean + (0.5 * log).exp() * draws[0]() if i else mean

    path = DiscreteVP.linear()
    denoiser = Denoiser(network, path, "eps", learned_variance=True)
    # The expected noise scale at the start is 1 in DDPM, sigma here; they are 2e-5 apart.
    out = sample(
        denoiser, start, grid=make_grid(path, steps, "linspace"), solver=Ancestral(variance), start=FromState(start),
        step_noise=draws[1],
    )  # fmt: skip
    torch.testing.assert_close(out.x0, x, rtol=0, atol=1e-5)


def test_ddim_of_the_coarse_chain_is_that_of_song():
    """eta between 0 and 1 on 50 kept entries, from equation 12 and 16 in alpha_bar."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    path, eta = DiscreteVP.linear(), 0.6
    denoiser, draws = Gaussian(path, "eps"), (source(2, (3,)).draw, source(2, (3,)).draw)
    x = start = draws[0]()
    draws[1]()
    index = [*reversed(range(19, 1000, 20)), None]
    for i, j in pairwise(index):
        now, then = alpha_bar[i], alpha_bar[j] if j is not None else torch.ones((), dtype=torch.float64)
        eps = denoiser(x, torch.tensor((i + 1) / 1000, dtype=torch.float64)).eps
        s = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
        mean = then.sqrt() * (x - (1 - now).sqrt() * eps) / now.sqrt() + (1 - then - s**2).sqrt() * eps
        x = mean + s * draws[0]() if j is not None else mean
    out = sample(
        denoiser,
        start,
        grid=TableGrid("trailing")(path, 50),
        solver=DDIM(eta),
        start=FromState(start),
        step_noise=draws[1],
    )
    torch.testing.assert_close(out.x0, x, rtol=0, atol=1e-10)


def sit_diffusion(form, norm, data_time):
    """D of SiT's forms (Ma et al. 2024, table 8), whose time is 1 at data."""
    sigma = 1 - data_time
    return {
        "sbdm": norm * sigma / data_time,
        "constant": norm,
        "sigma": norm * sigma,
        "linear": norm * (1 - data_time),
        "decreasing": 0.25 * (norm * math.cos(math.pi * data_time) + 1) ** 2,
        "increasing_decreasing": norm * math.sin(math.pi * data_time) ** 2,
    }[form]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", [0.8, 1.0, 2.5])
def test_the_amount_of_noise_is_that_of_its_form(form, norm):
    """Values in closed form, at scales other than 1 too: in "decreasing" it scales the cosine alone."""
    solver = EulerMaruyama(form, norm)
    for s in (0.04, 0.3, 0.5, 0.9):
        assert solver.amount(s) == pytest.approx(2 * sit_diffusion(form, norm, 1 - s), rel=1e-12)
    at_half = {"sbdm": 2 * norm, "sigma": norm, "linear": norm, "decreasing": 0.5}.get(form, 2 * norm)
    assert solver.amount(0.5) == pytest.approx(at_half, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_euler_maruyama_is_sit_s_on_a_flow(form):
    """SiT's step in its own time, which runs from noise 0 to data 1: drift v + D score, noise sqrt(2 D dt)."""
    flow, norm = LinearFlow(), 0.8
    denoiser, draw = Gaussian(flow), source(2, (3,)).draw
    t, t_next = torch.tensor([0.6, 0.55], dtype=torch.float64)
    x, data_time, dt = torch.randn(2, 3, dtype=torch.float64), 0.4, 0.05
    D = sit_diffusion(form, norm, data_time)
    prediction = denoiser(x, t)
    expected = x + (-prediction.velocity + D * prediction.score) * dt + (2 * D * dt) ** 0.5 * source(2, (3,)).draw()
    got = walk(EulerMaruyama(form, norm), denoiser, x, torch.stack([t, t_next]), draw)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_the_last_step_is_the_mean_or_the_picture(form):
    """SiT's "Mean" from t = 0.04: x + (velocity + D score) 0.04 in its own time, which is x0 - D eps, and no noise."""
    flow, x = LinearFlow(), torch.randn(2, 3, dtype=torch.float64)
    denoiser, grid = Gaussian(flow), torch.tensor([0.04, 0.0], dtype=torch.float64)
    prediction, D = denoiser(x, grid[0]), sit_diffusion(form, 0.8, 0.96)
    expected = x + (-prediction.velocity + D * prediction.score) * 0.04
    got = walk(EulerMaruyama(form, 0.8, "mean"), denoiser, x, grid)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(got, prediction.x0 - D * prediction.eps, rtol=0, atol=1e-12)
    torch.testing.assert_close(walk(EulerMaruyama(form, 0.8), denoiser, x, grid), prediction.x0, rtol=0, atol=0)


def test_one_step_of_endless_noise_is_the_picture():
    """sbdm's w is infinite at pure noise, and its mean no number."""
    flow, x = LinearFlow(), torch.randn(2, 3, dtype=torch.float64)
    got = walk(EulerMaruyama("sbdm", last_step="mean"), Gaussian(flow), x, make_grid(flow, 1))
    torch.testing.assert_close(got, torch.full_like(x, 0.7), rtol=0, atol=1e-12)


def test_churn_is_edm_s_algorithm():
    """Raise sigma by gamma, add what is missing of the noise, one Heun step (Karras et al. 2022, algorithm 2)."""
    path, x = PATHS["edm"], 3 * torch.randn(2, 3, dtype=torch.float64)
    denoiser = Gaussian(path, "x0")
    grid = levels(path, 2.0, 0.5, 2)
    s0, s1 = path.coefficients(grid[:2]).sigma
    for amount, inside in ((0.5, True), (40.0, True), (0.5, False)):
        gamma = min(amount / 2, 2**0.5 - 1) if inside else 0
        raised = s0 * (1 + gamma)
        y = x + (raised**2 - s0**2).sqrt() * 1.01 * source(2, (3,)).draw()
        at = path.t_from_log_snr(-2 * raised.log())
        d = (y - denoiser(y, at).x0) / raised
        euler = y + (s1 - raised) * d
        expected = y + (s1 - raised) * (d + (euler - denoiser(euler, grid[1]).x0) / s1) / 2
        solver = Churn(amount, 0.1, 3.0 if inside else 1.0, 1.01)
        state = solver.init(x, grid)
        got, _ = solver.step(lambda x, t, *_: denoiser(x, t), path, x, grid[0], grid[1], state, source(2, (3,)).draw)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_langevin_corrects_by_song_s_step():
    """x + d score + sqrt(2 d) noise with d = 2 (snr |noise| / |score|)^2, image by image."""
    path, x = PATHS["vp"], torch.randn(2, 3, dtype=torch.float64)
    denoiser, grid = Gaussian(path, "eps"), levels(path, 3.0, 2.0, 1)
    mid = walk(Heun(), denoiser, x, grid)
    score, noise = denoiser(mid, grid[1]).score, source(2, (3,)).draw()
    d = 2 * (0.16 * noise.norm(dim=1, keepdim=True) / score.norm(dim=1, keepdim=True)) ** 2
    got = walk(Langevin(Heun()), denoiser, x, grid, source(2, (3,)).draw)
    torch.testing.assert_close(got, mid + d * score + (2 * d).sqrt() * noise, rtol=0, atol=1e-12)


def end_variance(solver, path, steps, std):
    """The variance of N(0, std^2) at sigma/alpha 0.05, started exactly at 14.4: on Gaussian data every step is linear,
    so each source of noise is given to a row of its own and the rows' squares are added."""
    grid = levels(path, 14.4, 0.05, steps)
    c = path.coefficients(grid[0])
    x = torch.zeros(steps + 1, 1, dtype=torch.float64)
    x[0] = (c.alpha**2 * std**2 + c.sigma**2).sqrt()
    row = 0

    def draw():
        nonlocal row
        row += 1
        impulse = torch.zeros(steps + 1, 1, dtype=torch.float64)
        impulse[row] = 1
        return impulse

    out = walk(solver, Gaussian(path, "x0", mean=0.0, std=std), x, grid, draw)
    assert row == steps
    there = path.coefficients(grid[-1])
    return float(out.square().sum() / (there.alpha**2 * std**2 + there.sigma**2)) - 1


WEAK = {
    "DDIM 1": (DDIM(1.0), 1),
    "SDE-DPM++ 1": (SDEDPMSolverPP(1), 1),
    "SDE-DPM++ 2M": (SDEDPMSolverPP(2), 2),
    "EM sbdm": (EulerMaruyama("sbdm"), 1),
    "EM sigma": (EulerMaruyama("sigma", 0.5), 1),
    "EM decreasing": (EulerMaruyama("decreasing"), 1),
    "churn Heun": (Churn(10.0), 2),
}


@pytest.mark.parametrize(("solver", "order"), WEAK.values(), ids=WEAK)
def test_weak_order_on_the_variance(solver, order):
    errors = [end_variance(solver, PATHS["vp"], steps, 0.5) for steps in (100, 200)]
    assert slope([abs(e) for e in errors]) == pytest.approx(order, abs=0.15)
    if solver in (DDIM(1.0), SDEDPMSolverPP(1)):
        assert errors[-1] < 0  # too little variance; Euler-Maruyama has too much
    if solver == EulerMaruyama("sbdm"):
        assert errors[-1] > 0


@EACH
def test_the_law_of_the_data_is_met(solver):
    """Mean and spread of 4,000 pixels of N(0.7, 0.5^2), within 5 standard errors and the solver's bias."""
    path = PATHS["flow"]
    noise = source(100, (40,))
    out = sample(Gaussian(path), noise.draw(), grid=make_grid(path, 60), solver=solver, step_noise=noise.draw).x0
    assert float(out.mean()) == pytest.approx(0.7, abs=5 * 0.5 / 4000**0.5)
    # "large" and the forms of much noise are biased at 60 steps by as much as this; none of the laws is missed.
    assert float(out.std()) == pytest.approx(0.5, abs=5 * 0.5 / 8000**0.5 + 0.04)


@EACH
def test_an_image_does_not_depend_on_its_neighbours(solver):
    path, ends = PATHS["linear"], []
    for images in (range(4), range(2, 3)):
        noise = ImageNoise(7, images, (2,), dtype=torch.float64)
        out = sample(
            Mixture(path, "v"), noise.draw(), grid=make_grid(path, 6), solver=solver, step_noise=noise.draw,
            guidance=TNR(CFG(1.0)),
        )  # fmt: skip
        ends.append(out.x0)
    torch.testing.assert_close(ends[0][2:3], ends[1], rtol=0, atol=1e-12)
    again = ImageNoise(7, range(4), (2,), dtype=torch.float64)
    out = sample(
        Mixture(path, "v"), again.draw(), grid=make_grid(path, 6), solver=solver, step_noise=again.draw,
        guidance=TNR(CFG(1.0)),
    )  # fmt: skip
    assert torch.equal(out.x0, ends[0])


@EACH
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_calls_are_counted_and_as_declared(solver, steps):
    denoiser, noise = Gaussian(PATHS["linear"]), source(3, (2,))
    out = sample(denoiser, noise.draw(), grid=make_grid(denoiser.path, steps), solver=solver, step_noise=noise.draw)
    assert out.nfe.evaluations == denoiser.calls == solver.evaluations * (steps - 1) + 1


@EACH
def test_pure_noise_and_clean_data_are_exact(solver):
    denoiser, noise = Gaussian(LinearFlow(), mean=0.7), source(4, (2,))
    out = sample(denoiser, noise.draw(), grid=make_grid(denoiser.path, 1), solver=solver, step_noise=noise.draw)
    torch.testing.assert_close(out.x0, torch.full_like(out.x0, 0.7), rtol=0, atol=1e-13)
    # From pure noise the first picture is the mean; whatever the solver adds is noise of variance sigma^2.
    kept, noise = [], source(1, (20_000,))
    grid = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    sample(
        Gaussian(LinearFlow(), mean=0.7, std=1e-6), noise.draw(), grid=grid, solver=solver, step_noise=noise.draw,
        on_step=lambda c, x: kept.append(x),
    )  # fmt: skip
    assert float(kept[0].mean()) == pytest.approx(0.35, abs=0.02)
    assert bool(kept[0].isfinite().all())


@pytest.mark.parametrize("name", ["sigmoid", "cosine"])
@pytest.mark.parametrize("form", ["sbdm", "sigma"])
def test_a_table_that_ends_near_pure_noise_does_not_blow_up(name, form):
    """The first step divides sigma/alpha by hundreds: the form asks for thousands of times the noise there is."""
    for steps in (10, 25, 100):
        noise = source(50, (40,))
        denoiser = Gaussian(PATHS[name], "v")
        grid = make_grid(denoiser.path, steps)
        out = sample(denoiser, noise.draw(), grid=grid, solver=EulerMaruyama(form), step_noise=noise.draw)
        assert 0.25 < float(out.x0.std()) < 0.6


def test_bad_settings_are_refused():
    flow = LinearFlow()
    with pytest.raises(ValueError, match="solver DDIM draws noise in every step; give step_noise"):
        sample(Gaussian(flow), torch.zeros(1, 2), grid=make_grid(flow, 2), solver=DDIM(0.5))
    with pytest.raises(ValueError, match=r"solver\.variance=learned needs a network that learned one"):
        sample(
            Gaussian(flow), torch.zeros(1, 2), grid=make_grid(flow, 2), solver=Ancestral("learned"),
            step_noise=lambda: torch.zeros(1, 2),
        )  # fmt: skip
    for make, text in {
        lambda: DDIM(1.5): r"solver\.eta must lie between 0 and 1, got 1\.5",
        lambda: Ancestral("fixed"): r"solver\.variance must be small, large or learned, got 'fixed'",
        lambda: SDEDPMSolverPP(3): r"solver\.order must be 1 or 2, got 3",
        lambda: SDEDPMSolverPP(2, -1.0): r"solver\.eta must be at least 0 and finite, got -1\.0",
        lambda: EulerMaruyama("x"): r"solver\.diffusion must be one of sbdm, constant, .*, got 'x'",
        lambda: EulerMaruyama("sigma", 0): r"solver\.scale must be positive, got 0",
        lambda: EulerMaruyama(last_step="Mean"): r"solver\.last_step must be one of tweedie, mean, got 'Mean'",
        lambda: Churn(-1.0): r"solver\.amount must be at least 0 and finite, got -1\.0",
        lambda: Churn(solver=UniPC(2)): r"solver\.solver must be Euler, Heun, Midpoint, RK4 or RK38, got UniPC",
        lambda: Langevin(snr=0): r"solver needs corrections of at least 1 and snr > 0, got 1 and 0",
    }.items():
        with pytest.raises(ValueError, match=text):
            make()


def test_what_others_do_to_x_between_two_steps_of_unipc_is_kept():
    """Langevin or inpainting move x by d; where the network does not look at x, d is only scaled by sigma from then."""
    path = PATHS["linear"]
    denoiser = Gaussian(path, "x0", std=0.0)
    t = levels(path, 4.0, 1.0, 3)
    x, d = torch.randn(2, 2, 3, dtype=torch.float64)

    def run(between):
        state, y = UniPC(2).init(x, t), x
        for k in range(3):
            y, state = UniPC(2).step(lambda x, t, *_: denoiser(x, t), path, y, t[k], t[k + 1], state, None)
            y = y + d if k == 1 and between else y
        return y

    sigma = path.coefficients(t).sigma
    torch.testing.assert_close(run(True) - run(False), d * sigma[3] / sigma[2], rtol=0, atol=1e-12)


def test_langevin_never_steps_further_than_the_noise_there_is():
    """Where the predicted eps almost vanishes the step would be endless."""
    path = PATHS["linear"]

    def silent(x, t):
        return Prediction(1e-9 * x, "eps", x, path.coefficients(t))

    silent.path = path
    x = walk(
        Langevin(), silent, torch.randn(50, 4, dtype=torch.float64), levels(path, 2.0, 1.0, 1), source(50, (4,)).draw
    )
    assert float(x.abs().max()) < 10
