"""Classifier-free guidance: off is absent, all channels move, and the kind of prediction does not matter."""

import math

import pytest
import torch

from dit.diffusion import KINDS, Denoiser, LinearFlow
from dit.diffusion.path import VPContinuous
from dit.solvers import CFG, RK4, TNR, Euler, Heun, Interval, make_grid, sample
from tests.exact import PATHS, Gaussian

MEANS = (-1.0, 0.0, 1.0, 0.2)  # three classes, then the null label
LABELS = torch.tensor([0, 1, 2, 2])
NOISE = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def run(guidance, path=PATHS["linear"], kind="v", solver=None, noise=NOISE, labels=LABELS):
    denoiser = Gaussian(path, kind, means=MEANS, null_label=3)
    return sample(
        denoiser, noise, labels, grid=make_grid(path, 6), solver=solver or Heun(), guidance=guidance
    ), denoiser


def test_scale_one_is_no_guidance_bit_for_bit_and_costs_one_row():
    guided, denoiser = run(CFG(1.0))
    plain, _ = run(None)
    assert torch.equal(guided.x0, plain.x0)
    assert (guided.nfe.evaluations, guided.nfe.rows) == (11, 11)
    assert denoiser.rows == 4 * 11


def test_scale_zero_is_unconditional_and_costs_one_row():
    guided, _ = run(CFG(0.0))
    plain, _ = run(None, labels=None)
    assert torch.equal(guided.x0, plain.x0)
    assert guided.nfe.rows == 11


def test_other_scales_cost_two_rows_in_one_call():
    guided, denoiser = run(CFG(2.5))
    assert (guided.nfe.evaluations, guided.nfe.rows, denoiser.calls) == (11, 22, 11)
    two, denoiser = run(CFG(2.5, batched=False))
    assert (two.nfe.evaluations, two.nfe.rows, denoiser.calls) == (11, 22, 22)
    assert torch.equal(two.x0, guided.x0)


@pytest.mark.parametrize("path", [PATHS["linear"], PATHS["flow"]], ids=["linear", "flow"])
def test_guidance_is_the_same_in_every_kind(path):
    """Weights that sum to one commute with the affine conversions (all kinds that can start at t = 1)."""
    reference, _ = run(CFG(3.7), path, "v", Euler())
    for kind in KINDS:
        if path is PATHS["flow"] and kind in ("eps", "score"):
            continue
        other, _ = run(CFG(3.7), path, kind, Euler())
        torch.testing.assert_close(other.x0, reference.x0, rtol=0, atol=1e-9)


def test_the_formula_counts_from_the_unconditional_prediction():
    """uncond + w (cond - uncond): in one exact Euler step from pure noise x0 is the guided mean itself."""
    denoiser = Gaussian(LinearFlow(), means=MEANS, null_label=3)
    out = sample(denoiser, NOISE, LABELS, grid=make_grid(denoiser.path, 1), guidance=CFG(1.5))
    expected = [0.2 + 1.5 * (MEANS[label] - 0.2) for label in LABELS]
    assert out.x0[:, 0, 0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("channel", range(5))
def test_every_channel_is_guided(channel):
    """The published DiT guides three channels only; ours moves channel k exactly when the network's channel k does."""
    path = LinearFlow()

    def network(x, time, labels):
        out = x.clone()
        out[:, channel] += (labels != 3).double()[:, None, None]
        return out

    noise = torch.randn(2, 5, 2, 2, dtype=torch.float64)
    images = [
        sample(
            Denoiser(network, path, "velocity", null_label=3), noise, torch.tensor([0, 1]), grid=make_grid(path, 3),
            guidance=CFG(scale),
        ).x0
        for scale in (1.0, 2.0)
    ]  # fmt: skip
    moved = (images[0] - images[1]).abs().amax(dim=(0, 2, 3)) > 1e-6
    assert moved.tolist() == [k == channel for k in range(5)]


def test_guidance_without_a_trained_null_class_is_refused():
    with pytest.raises(ValueError, match=r"guidance\.scale=2 needs .* class_dropout 0, so only guidance\.scale=1"):
        sample(Gaussian(LinearFlow()), NOISE, LABELS, grid=make_grid(LinearFlow(), 2), guidance=CFG(2.0))
    with pytest.raises(ValueError, match=r"guidance\.scale=2 needs class labels"):
        run(CFG(2.0), labels=None)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"guidance\.scale must be a finite number"):
            CFG(bad)


def test_interval_that_covers_all_is_cfg_and_an_empty_one_is_conditional():
    whole, _ = run(Interval(CFG(2.0), (-math.inf, math.inf)))
    assert torch.equal(whole.x0, run(CFG(2.0))[0].x0)
    # A flow starts at log-SNR -inf, which belongs to an interval from -inf.
    flow = (PATHS["flow"], "velocity")
    assert torch.equal(run(Interval(CFG(2.0), (-math.inf, math.inf)), *flow)[0].x0, run(CFG(2.0), *flow)[0].x0)
    none, _ = run(Interval(CFG(2.0), (50.0, 60.0)))
    assert torch.equal(none.x0, run(None)[0].x0)
    assert none.nfe.rows == none.nfe.evaluations


def test_interval_is_decided_by_the_start_of_the_step():
    """Six uniform steps of a flow start at log-SNR -inf, -3.2, -1.4, 0, 1.4, 3.2; both stages of a step obey."""
    rows, flow = [], LinearFlow()
    exact = Gaussian(flow, means=MEANS, null_label=3)

    def denoiser(x, t, labels=None):
        rows.append(len(x))
        return exact(x, t, labels)

    denoiser.path, denoiser.null_label = flow, 3
    rule = Interval(CFG(2.0), (-2.0, 1.0))
    sample(denoiser, NOISE, LABELS, grid=make_grid(flow, 6), solver=Heun(), guidance=rule)
    assert rows == [4, 4, 4, 4, 8, 8, 8, 8, 4, 4, 4]
    with pytest.raises(ValueError, match=r"guidance\.log_snr must be \(low, high\) with low < high, got \(1, 1\)"):
        Interval(CFG(2.0), (1, 1))


def test_tnr_of_strength_zero_is_its_inner_rule_bit_for_bit():
    for solver in (Euler(), Heun(), RK4()):
        same, _ = run(TNR(CFG(2.0), kappa=0.0), solver=solver)
        assert torch.equal(same.x0, run(CFG(2.0), solver=solver)[0].x0)
    gated, _ = run(TNR(CFG(2.0), u_min=1e9))
    assert torch.equal(gated.x0, run(CFG(2.0))[0].x0)


@pytest.mark.parametrize("name", ["linear", "flow"])
def test_tnr_is_the_same_in_every_kind(name):
    reference, _ = run(TNR(CFG(1.7)), PATHS[name], "v", Heun())
    for kind in KINDS:
        if name == "flow" and kind in ("eps", "score"):
            continue
        other, _ = run(TNR(CFG(1.7)), PATHS[name], kind, Heun())
        torch.testing.assert_close(other.x0, reference.x0, rtol=0, atol=1e-8)


def test_tnr_starts_and_ends_as_defined():
    """From pure noise the first Euler step makes S x0 the signal; the last step, to clean data, has S = 1."""
    rule, flow = TNR(CFG(1.0)), LinearFlow()
    strengths = [rule.strength(flow.coefficients(torch.tensor(t, dtype=torch.float64))) for t in (0.0, 0.5, 1.0)]
    assert strengths == pytest.approx([1.0, 2 - 0.5**0.25, 2.0])
    seen = []
    denoiser = Gaussian(flow, mean=0.7)
    sample(denoiser, NOISE, grid=make_grid(flow, 4), guidance=rule, on_step=lambda c, x: seen.append((c, x)))
    s = rule.strength(flow.coefficients(seen[0][0].t_next))
    # x0 at pure noise is the mean; y = S x0 then, and x = alpha y + sigma e.
    torch.testing.assert_close(seen[0][1], 0.25 * s * 0.7 + 0.75 * NOISE, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("std", "kappa", "a_golden", "c_golden"),
    # Closed integrals of N(m, s^2) on the scaled-linear continuous schedule, u_T = 14.462695: x0 = A m + C e.
    [(1.0, 0.0, 0.9310213, 0.9976181), (1.0, 1.0, 0.9792081, 1.0603242), (3.0, 1.0, 0.9152225, 3 * 1.1406698)],
    ids=["base s=1", "TNR s=1", "TNR s=3"],
)
def test_tnr_has_the_gaussian_law(std, kappa, a_golden, c_golden):
    path = VPContinuous(0.85, 12.0, power=2)
    grid = path.t_from_log_snr(torch.linspace(-2 * math.log(14.462695), 2 * math.log(1e5), 400, dtype=torch.float64))
    grid = torch.cat([torch.ones(1, dtype=torch.float64), grid[1:], torch.zeros(1, dtype=torch.float64)])
    found = []
    for mean, noise in ((1.0, 0.0), (0.0, 1.0)):
        start = torch.full((1, 1), noise, dtype=torch.float64)
        denoiser = Gaussian(path, "eps", mean=mean, std=std)
        found.append(float(sample(denoiser, start, grid=grid, solver=RK4(), guidance=TNR(CFG(1.0), kappa)).x0))
    assert found == pytest.approx([a_golden, c_golden], abs=2e-5)


def test_tnr_of_constant_two_has_the_spread_pi_half():
    """S = 2 everywhere and u from infinity: C / s = pi / 2 (p so large that S is 2 at every level above 1e-4)."""
    path = LinearFlow()
    levels = torch.linspace(-2 * math.log(1e4), 2 * math.log(1e4), 600, dtype=torch.float64)
    inner = path.t_from_log_snr(levels)
    grid = torch.cat([torch.ones(1, dtype=torch.float64), inner, torch.zeros(1, dtype=torch.float64)])
    start = torch.ones(1, 1, dtype=torch.float64)
    denoiser = Gaussian(path, "velocity", mean=0.0, std=1.0)
    out = sample(denoiser, start, grid=grid, solver=RK4(), guidance=TNR(CFG(1.0), p=1e12))
    assert float(out.x0) == pytest.approx(math.pi / 2, abs=2e-3)


@pytest.mark.parametrize(("at", "order"), [("stage", 4), ("end", 1)])
def test_tnr_keeps_the_order_of_rk4_only_at_the_stage(at, order):
    path, errors = PATHS["trigonometric"], []
    start = torch.tensor([[-1.0], [0.3], [1.2]], dtype=torch.float64)

    def run_with(steps, at):
        grid = path.t_from_log_snr(torch.linspace(-5, 5, steps + 1, dtype=torch.float64))
        return sample(Gaussian(path, "eps"), start, grid=grid, solver=RK4(), guidance=TNR(CFG(1.0), at=at)).x0

    truth = run_with(1024, "stage")
    for steps in (16, 32, 64):
        errors.append(float((run_with(steps, at) - truth).norm()))
    assert math.log2(errors[0] / errors[-1]) / 2 == pytest.approx(order, abs=0.2)


def test_bad_settings_of_tnr_are_refused():
    with pytest.raises(ValueError, match=r"guidance\.at must be auto, end or stage, got 'middle'"):
        TNR(CFG(1.0), at="middle")
    with pytest.raises(ValueError, match=r"p > 0 and u_min >= 0, got p=0 and u_min=0"):
        TNR(CFG(1.0), p=0)
    with pytest.raises(ValueError, match="class_dropout 0"):
        sample(Gaussian(LinearFlow()), NOISE, LABELS, grid=make_grid(LinearFlow(), 2), guidance=TNR(CFG(2.0)))
