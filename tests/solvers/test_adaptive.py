"""Adaptive steps: as exact as asked for in both clocks, counted, and honest about batches."""

import sys

import pytest
import torch

from dit.diffusion import LinearFlow, Prediction
from dit.solvers import CFG, RK4, TNR, Dopri5, Langevin, Sampler, make_grid, sample
from dit.solvers.start import FromState
from tests.exact import FIRST, LAST, PATHS, Gaussian, Mixture, levels, mixture_truth, walk


@pytest.mark.parametrize("clock", ["rectified", "log_snr"])
@pytest.mark.parametrize("name", ["vp_scaled", "flow"])
def test_dopri5_agrees_with_a_method_of_order_8(name, clock):
    denoiser = Mixture(PATHS[name], "v")
    x, truth = mixture_truth(name)
    for steps in (1, 3):
        got = walk(Dopri5(1e-8, 1e-8, clock), denoiser, x, levels(denoiser.path, FIRST, LAST, steps))
        torch.testing.assert_close(got, truth, rtol=0, atol=1e-6)


def test_both_ends_are_exact_and_every_call_is_counted():
    """From sigma/alpha = inf to clean data in one interval; tighter tolerances cost more and err less."""
    noise, errors, costs = torch.randn(5, 3, dtype=torch.float64), [], []
    for tolerance in (1e-2, 1e-4, 1e-8):
        denoiser = Gaussian(LinearFlow())
        out = sample(denoiser, noise, grid=make_grid(denoiser.path, 1), solver=Dopri5(tolerance, tolerance))
        assert out.nfe.evaluations == denoiser.calls
        errors.append(float((out.x0 - 0.7 - 0.5 * noise).abs().max()))
        costs.append(denoiser.calls)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 3e-5  # the last stretch, below sigma/alpha = 0.002, is an Euler step
    assert costs[0] < costs[1] < costs[2]


def test_rules_work_inside():
    denoiser = Gaussian(PATHS["linear"], "eps", means=(-1.0, 1.0, 0.0), null_label=2)
    grid, labels = make_grid(denoiser.path, 1), torch.tensor([0, 1])
    rule, noise = TNR(CFG(1.5)), torch.randn(2, 3, dtype=torch.float64)
    adaptive = sample(denoiser, noise, labels, grid=grid, solver=Dopri5(1e-8, 1e-8), guidance=rule).x0
    fixed = sample(
        denoiser, noise, labels, grid=make_grid(denoiser.path, 200, "karras", u_min=0.002, u_max=200), solver=RK4(),
        guidance=rule,
    )  # fmt: skip
    torch.testing.assert_close(adaptive, fixed.x0, rtol=0, atol=1e-5)


def test_an_image_depends_on_its_batch_and_the_sampler_says_so():
    denoiser, noise = Mixture(PATHS["vp"], "v"), torch.randn(40, 2, dtype=torch.float64)
    grid = make_grid(denoiser.path, 1)
    whole, alone = (sample(denoiser, n, grid=grid, solver=Dopri5(1e-2, 1e-2)).x0[:1] for n in (noise, noise[:1]))
    assert not torch.equal(whole, alone)
    with pytest.raises(ValueError, match=r"solver Dopri5 chooses its steps for a whole batch, .* got batch_size=128"):
        Sampler(solver=Dopri5())
    assert Sampler(solver=Dopri5(), batch_size=1).batch_size == 1


def test_a_solver_around_it_does_not_hide_it():
    with pytest.raises(ValueError, match="solver Langevin chooses its steps for a whole batch"):
        Sampler(solver=Langevin(Dopri5()))


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "zero_terminal_snr"])
@pytest.mark.parametrize("steps", [16, 25, 40])
def test_a_grid_that_ends_where_the_last_stretch_begins(name, steps):
    """EDM's grid and the last stretch share their smallest level, but for rounding; of a table, its first entry."""
    asked, exact = [], Gaussian(PATHS[name], "v")

    def denoiser(x, t, labels=None):
        asked.append(float(t))
        return exact(x, t, labels)

    denoiser.path = exact.path
    grid = make_grid(exact.path, steps, "karras")[-4:]
    out = sample(denoiser, None, start=FromState(torch.randn(2, 3)), grid=grid, solver=Dopri5())
    assert bool(out.x0.isfinite().all())
    assert min(asked) >= 1 / 1000 - 1e-9


def test_a_state_that_is_not_finite_stops_with_its_level():
    def broken(x, t, labels=None):
        return Prediction(x * float("nan"), "velocity", x, LinearFlow().coefficients(t))

    broken.path = LinearFlow()
    with pytest.raises(FloatingPointError, match="sampling became non-finite near log-SNR -inf"):
        sample(broken, torch.ones(1, 2), grid=make_grid(broken.path, 1), solver=Dopri5())


def test_mistakes_are_refused_before_the_first_call(monkeypatch):
    with pytest.raises(ValueError, match=r"solver\.clock must be rectified or log_snr, got 'u'"):
        Dopri5(clock="u")
    with pytest.raises(ValueError, match=r"solver\.rtol must be positive, got 0"):
        Dopri5(rtol=0)
    denoiser, noise = Gaussian(LinearFlow()), torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"solver\.clock=log_snr needs a grid that starts with some signal"):
        sample(denoiser, noise, grid=make_grid(denoiser.path, 1), solver=Dopri5(clock="log_snr"))
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ValueError, match=r"solver Dopri5 needs torchdiffeq: pip install 'ditlab\[adaptive\]'"):
        sample(denoiser, noise, grid=make_grid(denoiser.path, 1), solver=Dopri5())
    assert denoiser.calls == 0
