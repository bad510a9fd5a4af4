"""Guidance: off is absent, each rule is its paper's, and the kind of prediction does not matter where it should not."""

import math
from dataclasses import fields, replace
from itertools import pairwise, product

import pytest
import torch

from dit.diffusion import KINDS, Denoiser, DiscreteVP, LinearFlow
from dit.diffusion.path import VPContinuous
from dit.solvers import (
    APG,
    CFG,
    DDIM,
    RK4,
    TNR,
    Ancestral,
    Autoguidance,
    CFGPlusPlus,
    CFGZeroStar,
    Churn,
    ClassifierGuidance,
    Compose,
    CosineScale,
    Dopri5,
    DPMSolver2,
    DPMSolverPP,
    DynamicThreshold,
    Euler,
    EulerMaruyama,
    Heun,
    ImageNoise,
    Interval,
    Langevin,
    LinearScale,
    Relative,
    Rescale,
    SDEDPMSolverPP,
    UniPC,
    VelocityLimit,
    make_grid,
    sample,
)
from dit.solvers.sample import describe
from dit.solvers.start import FromState
from tests.exact import PATHS, Gaussian, Mixture, slope

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
    assert guided.nfe.by_network == {"model": 22}


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
    with pytest.raises(ValueError, match=r"guidance\.scale=2 needs .* dropout.class 0, so only guidance\.scale=1"):
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


@pytest.mark.parametrize(
    ("by", "expected"), [("step", [4, 4, 4, 4, 8, 8, 8, 8, 4, 4, 4]), ("stage", [4, 4, 4, 8, 8, 8, 8, 4, 4, 4, 4])]
)
def test_interval_is_decided_by_the_start_of_the_step_or_by_the_stage(by, expected):
    """Six uniform steps of a flow start at log-SNR -inf, -3.2, -1.4, 0, 1.4, 3.2; both stages of a step obey, or each
    its own level."""
    rows, flow = [], LinearFlow()
    exact = Gaussian(flow, means=MEANS, null_label=3)

    def denoiser(x, t, labels=None):
        rows.append(len(x))
        return exact(x, t, labels)

    denoiser.path, denoiser.null_label = flow, 3
    rule = Interval(CFG(2.0), (-2.0, 1.0), by)
    sample(denoiser, NOISE, LABELS, grid=make_grid(flow, 6), solver=Heun(), guidance=rule)
    assert rows == expected
    with pytest.raises(ValueError, match=r"guidance\.log_snr must be \(low, high\) with low < high, got \(1, 1\)"):
        Interval(CFG(2.0), (1, 1))


@pytest.mark.parametrize("kind", ["x0", "velocity", "v", "edm"])
def test_a_limited_velocity_is_that_of_the_denoised_picture_over_no_less_than_t_eps(kind):
    """JiT's (x - x0) / max(t, 0.05) in Heun's steps, from a prediction of any kind; above that t, bit for bit CFG."""
    flow, x = LinearFlow(), NOISE
    denoiser, rule = Gaussian(flow, kind, means=MEANS, null_label=3), VelocityLimit(CFG(2.0), max_gain=20.0)

    def slope(x, t):
        cond, uncond = denoiser(x, t, LABELS).x0, denoiser(x, t).x0
        return (x - uncond - 2 * (cond - uncond)) / max(float(t), 0.05)

    grid = torch.tensor([0.3, 0.2, 0.06, 0.04, 0.02, 0.0], dtype=torch.float64)
    for t, t_next in pairwise(grid):
        first = slope(x, t)
        mean = first if t_next == 0 else (first + slope(x + (t_next - t) * first, t_next)) / 2
        x = x + (t_next - t) * mean
    got = sample(denoiser, None, LABELS, start=FromState(NOISE), grid=grid, solver=Heun(), guidance=rule)
    torch.testing.assert_close(got.x0, x, rtol=0, atol=1e-10)
    above = {"start": FromState(NOISE), "grid": grid[:2], "solver": Heun()}
    guided = (sample(denoiser, None, LABELS, guidance=g, **above).x0 for g in (rule, CFG(2.0)))
    assert torch.equal(*guided)


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
    grid = path.t_from_log_snr(torch.linspace(-2 * math.log(14.462695), 2 * math.log(1e5), 60, dtype=torch.float64))
    grid = torch.cat([torch.ones(1, dtype=torch.float64), grid[1:], torch.zeros(1, dtype=torch.float64)])
    denoiser = Gaussian(path, "eps", means=(1.0, 0.0), std=std)  # m = 1 with e = 0, and m = 0 with e = 1
    start, labels = torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([0, 1])
    out = sample(denoiser, start, labels, grid=grid, solver=RK4(), guidance=TNR(CFG(1.0), kappa))
    assert out.x0.flatten().tolist() == pytest.approx([a_golden, c_golden], abs=1e-5)


def test_tnr_of_constant_two_has_the_spread_pi_half():
    """S = 2 everywhere and u from infinity: C / s = pi / 2 (p so large that S is 2 at every level above 1e-4)."""
    path = LinearFlow()
    levels = torch.linspace(-2 * math.log(1e4), 2 * math.log(1e4), 75, dtype=torch.float64)
    inner = path.t_from_log_snr(levels)
    grid = torch.cat([torch.ones(1, dtype=torch.float64), inner, torch.zeros(1, dtype=torch.float64)])
    start = torch.ones(1, 1, dtype=torch.float64)
    denoiser = Gaussian(path, "velocity", mean=0.0, std=1.0)
    out = sample(denoiser, start, grid=grid, solver=RK4(), guidance=TNR(CFG(1.0), p=1e12))
    assert float(out.x0) == pytest.approx(math.pi / 2, abs=1e-4)


@pytest.mark.parametrize(("at", "order"), [("stage", 4), ("end", 1)])
def test_tnr_keeps_the_order_of_rk4_only_at_the_stage(at, order):
    path, errors = PATHS["trigonometric"], []
    start = torch.tensor([[-1.0], [0.3], [1.2]], dtype=torch.float64)

    def run_with(steps, at):
        grid = path.t_from_log_snr(torch.linspace(-5, 5, steps + 1, dtype=torch.float64))
        return sample(Gaussian(path, "eps"), start, grid=grid, solver=RK4(), guidance=TNR(CFG(1.0), at=at)).x0

    truth = run_with(128, "stage")
    for steps in (16, 32):
        errors.append(float((run_with(steps, at) - truth).norm()))
    assert slope(errors) == pytest.approx(order, abs=0.2)


def test_bad_settings_of_tnr_are_refused():
    with pytest.raises(ValueError, match=r"guidance\.at must be auto, end or stage, got 'middle'"):
        TNR(CFG(1.0), at="middle")
    with pytest.raises(ValueError, match=r"p > 0 and u_min >= 0, got p=0 and u_min=0"):
        TNR(CFG(1.0), p=0)
    with pytest.raises(ValueError, match=r"dropout\.class 0"):
        sample(Gaussian(LinearFlow()), NOISE, LABELS, grid=make_grid(LinearFlow(), 2), guidance=TNR(CFG(2.0)))


FLOW = LinearFlow()
MIX_NOISE = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
MIX_LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def mixed(guidance, path=PATHS["linear"], kind="v", solver=None, steps=6, **more):
    """On the mixture, where rules are not linear in x."""
    return sample(
        Mixture(path, kind), MIX_NOISE, MIX_LABELS, grid=make_grid(path, steps), solver=solver or Heun(),
        guidance=guidance, **more,
    )  # fmt: skip


def first_step(path, steps, kind="eps"):
    """cond, uncond, x, t, t_next of the mixture at the second level of a grid, to write a rule out by hand."""
    grid = make_grid(path, steps)
    denoiser, t = Mixture(path, kind), grid[1]
    x = MIX_NOISE * 0.9
    return denoiser(x, t, MIX_LABELS), denoiser(x, t, None), x, t, grid[2]


def stepped(rule, path, steps, kind="eps", solver=None):
    """One step of `rule` from where `first_step` stands."""
    _, _, x, t, t_next = first_step(path, steps, kind)
    return sample(
        Mixture(path, kind),
        MIX_NOISE,
        MIX_LABELS,
        grid=torch.stack([t, t_next]),
        solver=solver,
        guidance=rule,
        start=FromState(x),
    ).x0


# --- identities: a rule turned off is its inner rule


def waves(x, time):
    """Some classifier: logits that are no constant, nor linear."""
    return torch.cat([x.sin(), x[:, :1].cos()], 1)


INERT = {
    "Rescale phi=0": Rescale(CFG(2.0), phi=0.0),
    "APG eta=1": APG(2.0, eta=1.0, norm_threshold=None, momentum=0.0),
    "threshold of all": DynamicThreshold(CFG(2.0), quantile=1.0, limit=1e6),
    "classifier at 0": ClassifierGuidance(CFG(2.0), lambda x, t: x, scale=0.0),
    "TNR kappa=0": TNR(CFG(2.0), kappa=0.0),
    "Interval of all": Interval(CFG(2.0), (-math.inf, math.inf)),
    "velocity without limit": VelocityLimit(CFG(2.0), max_gain=1e9),
    "CFG++ consistent": CFGPlusPlus(2.0, mode="consistent"),
    "Compose of the own class": None,
    "scale as a function": CFG(lambda log_snr: 2.0),
    "scale as a flat line": CFG(LinearScale(2.0, 2.0)),
    "all channels": CFG(2.0, channels=2),
    "Relative": Relative((3.0, 0.0)),
}


@pytest.mark.parametrize("name", ["linear", "flow", "edm"])
@pytest.mark.parametrize("rule", INERT.values(), ids=INERT)
def test_a_rule_turned_off_is_cfg(rule, name):
    path = PATHS[name]
    if rule is None:  # one class for all images
        one = torch.full((6,), 1)
        rows = [
            sample(Mixture(path, "v"), MIX_NOISE, one, grid=make_grid(path, 6), solver=Heun(), guidance=g).x0
            for g in (Compose((1,), (2.0,)), CFG(2.0))
        ]
    else:
        rows = [mixed(g, path).x0 for g in (rule, CFG(2.0))]
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_autoguidance_by_the_same_network_is_none(scale):
    path = PATHS["linear"]
    out = mixed(Autoguidance(Mixture(path, "x0"), scale), path)
    torch.testing.assert_close(out.x0, mixed(None, path).x0, rtol=0, atol=1e-10)
    assert out.nfe.by_network == ({"model": 11, "weak": 11} if scale != 1 else {"model": 11, "weak": 0})
    assert out.nfe.rows == (22 if scale != 1 else 11)


@pytest.mark.parametrize("name", ["linear", "flow", "edm"])
@pytest.mark.parametrize(
    "rule",
    [
        CFG(3.0), CFG(2.0, negative=1), CFG(LinearScale(1.5, 4.0)), Compose((0, 2), (1.5, 0.5)), CFGPlusPlus(0.6),
        APG(3.0, 0.2, 0.5, -0.4), Rescale(CFG(3.0), 0.7), DynamicThreshold(CFG(3.0), 0.9), CFGZeroStar(2.0, 1),
        TNR(CFG(2.0)), Relative((1.0, 0.5, -0.5), ("own", None, 2)),
        TNR(Relative((1.0, 0.5)), compat="nonbary_head"), TNR(Relative((1.0, 0.5)), compat="nonbary_old"),
        ClassifierGuidance(CFG(1.5), waves, 0.8),
    ],
    ids=lambda rule: type(rule).__name__,
)  # fmt: skip
def test_rules_are_the_same_whatever_the_network_predicts(rule, name):
    """All kinds, x0 and eps and v and velocity and score and edm, on paths that can start from them; rules with norms
    name their space and so agree as well."""
    reference = mixed(rule, PATHS[name], "v", steps=4).x0
    for kind in KINDS:
        if kind == "v" or (name == "flow" and kind in ("eps", "score")):
            continue
        torch.testing.assert_close(mixed(rule, PATHS[name], kind, steps=4).x0, reference, rtol=0, atol=1e-7)


# --- the formulas of the papers, one step written out by hand


@pytest.mark.parametrize("name", ["linear", "flow"])
def test_a_negative_class_takes_the_place_of_none(name):
    path = PATHS[name]
    cond, _, x, t, t_next = first_step(path, 8, "v")
    other = Mixture(path, "v")(x, t, torch.full((6,), 2))
    c = path.coefficients(t_next)
    expected = cond.with_native(other.native + 2.5 * (cond.native - other.native)).combine(c.alpha, c.sigma)
    torch.testing.assert_close(stepped(CFG(2.5, negative=2), path, 8, "v"), expected, rtol=0, atol=1e-12)


def test_composition_adds_the_directions_of_its_classes():
    path = PATHS["linear"]
    _, none, x, t, t_next = first_step(path, 8)
    parts = [Mixture(path)(x, t, torch.full((6,), k)).native - none.native for k in (0, 2)]
    c = path.coefficients(t_next)
    expected = none.with_native(none.native + 1.5 * parts[0] - 0.5 * parts[1]).combine(c.alpha, c.sigma)
    torch.testing.assert_close(stepped(Compose((0, 2), (1.5, -0.5)), path, 8), expected, rtol=0, atol=1e-12)
    assert Compose((0, 2), (1.0, 3.0)).with_scale(2.0).scales == (0.5, 1.5)
    assert mixed(Compose((0, 2), (1.5, 0.5)), path).nfe.rows == 33
    assert mixed(Compose((0, 2), (0.5, 0.5)), path).nfe.rows == 22  # no class weighs nothing


@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize("name", ["linear", "flow", "edm"])
def test_cfg_plus_plus_is_the_paper_s_step(name, steps):
    """The picture guided by lam, renoised with the unconditional eps; a CFG of scale lam / (1 - exp(-h))."""
    path = PATHS[name]
    cond, none, _, t, t_next = first_step(path, steps, "v")
    c = path.coefficients(t_next)
    picture = none.with_native(none.native + 0.6 * (cond.native - none.native)).x0
    expected = c.alpha * picture + c.sigma * none.eps
    torch.testing.assert_close(stepped(CFGPlusPlus(0.6), path, steps, "v"), expected, rtol=0, atol=1e-11)
    h = float(path.log_snr(t_next) - path.log_snr(t)) / 2
    same = stepped(CFG(0.6 / (1 - math.exp(-h))), path, steps, "v")
    torch.testing.assert_close(same, expected, rtol=0, atol=1e-11)


def test_cfg_plus_plus_has_no_limit_of_many_steps():
    """At a fixed lam the whole push grows with the number of steps; CFG's does not."""
    path, label = PATHS["vp_scaled"], torch.zeros(6, dtype=torch.long)
    pushed = {}
    for rule in (CFGPlusPlus(0.6), CFG(2.0)):
        runs = [
            sample(
                Gaussian(path, "eps", means=(1.0, 0.0), null_label=1), MIX_NOISE, label, guidance=rule,
                grid=make_grid(path, steps, "uniform_log_snr", first=-5.3, last=6),
            ).x0.mean() for steps in (10, 40, 160)
        ]  # fmt: skip
        pushed[type(rule).__name__] = [float(r) for r in runs]
    plus, plain = pushed["CFGPlusPlus"], pushed["CFG"]
    assert plus[1] - plus[0] > 0.3
    assert plus[2] - plus[1] > 2 * (plus[1] - plus[0])
    assert abs(plain[2] - plain[1]) < 0.1 * abs(plain[2])


def test_rescale_brings_the_spread_back_in_its_space():
    path = PATHS["linear"]
    cond, none, _, _, t_next = first_step(path, 8, "v")
    guided = none.with_native(none.native + 3.0 * (cond.native - none.native))
    c = path.coefficients(t_next)
    for space in ("x0", "eps", "native"):
        kind = "v" if space == "native" else space
        p, q = guided.view(kind), cond.view(kind)
        p = p * (0.6 * q.std(1, keepdim=True) / p.std(1, keepdim=True) + 0.4)
        pair = {
            "x0": lambda p=p: (p, (guided.x - guided.coefficients.alpha * p) / guided.coefficients.sigma),
            "eps": lambda p=p: ((guided.x - guided.coefficients.sigma * p) / guided.coefficients.alpha, p),
            "v": lambda p=p: (guided.with_native(p).x0, guided.with_native(p).eps),
        }[kind]()
        expected = c.alpha * pair[0] + c.sigma * pair[1]
        got = stepped(Rescale(CFG(3.0), 0.6, space), path, 8, "v")
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_rescale_asks_for_the_conditional_prediction_it_needs():
    assert mixed(Rescale(CFG(0.0))).nfe.rows == 22
    assert mixed(Rescale(CFG(1.0))).nfe.rows == 11
    # A silent step stays silent: six steps, two of them for nothing.
    assert mixed(Rescale(CFGZeroStar(2.0, 2)), FLOW, "v", Euler()).nfe.rows == 8
    assert mixed(Rescale(CFG(2.0))).nfe.rows == 22


def test_dynamic_thresholding_is_imagen_s():
    path = PATHS["linear"]
    cond, none, x, t, t_next = first_step(path, 8, "v")
    x0 = none.with_native(none.native + 3.0 * (cond.native - none.native)).x0
    size = torch.quantile(x0.abs(), 0.8, dim=1, keepdim=True).clamp(min=0.5)
    assert bool((x0.abs() > size).any())
    x0 = x0.clamp(-size, size) * 0.5 / size
    here, there = path.coefficients(t), path.coefficients(t_next)
    expected = there.alpha * x0 + there.sigma * (x - here.alpha * x0) / here.sigma
    got = stepped(DynamicThreshold(CFG(3.0), 0.8, 0.5), path, 8, "v")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_apg_is_the_paper_s_on_denoised_pictures():
    """Momentum, then the norm, then the projection; the running sum goes on once a step, not once a stage."""
    path, steps = PATHS["linear"], 3
    scale, eta, radius, beta = 3.0, 0.3, 0.4, -0.5
    denoiser, grid = Mixture(path, "eps"), make_grid(path, steps)
    average = torch.zeros_like(MIX_NOISE)

    def guided(x, t, before):
        cond, none = denoiser(x, t, MIX_LABELS).x0, denoiser(x, t, None).x0
        change = cond - none + beta * before
        clipped = change * (radius / change.norm(dim=1, keepdim=True)).clamp(max=1)
        parallel = (clipped * cond).sum(1, keepdim=True) / cond.square().sum(1, keepdim=True) * cond
        return cond + (scale - 1) * (clipped - parallel + eta * parallel), change

    # Heun in sigma/alpha, written out.
    x = path.coefficients(grid[0]).sigma * MIX_NOISE
    for k in range(steps):
        here, there = path.coefficients(grid[k]), path.coefficients(grid[k + 1])
        x0, new = guided(x, grid[k], average)
        if float(there.sigma) == 0:
            x = x0
            break
        u, u_next = here.sigma / here.alpha, there.sigma / there.alpha
        z, slope = x / here.alpha, (x - here.alpha * x0) / here.sigma
        trial = there.alpha * (z + (u_next - u) * slope)
        x0, _ = guided(trial, grid[k + 1], average)
        second = (trial - there.alpha * x0) / there.sigma
        x = there.alpha * (z + (u_next - u) * (slope + second) / 2)
        average = new
    rule = APG(scale, eta, radius, beta)
    for _ in range(2):  # the rule keeps nothing from one trajectory to the next
        got = mixed(rule, path, "eps", Heun("u"), steps)
        torch.testing.assert_close(got.x0, x, rtol=0, atol=1e-9)
    assert got.nfe.rows == 10


def test_cfg_zero_star_fits_the_unconditional_velocity_and_starts_silent():
    cond, none, x, t, t_next = first_step(FLOW, 8, "velocity")
    c, n = cond.native, none.native
    fitted = (c * n).sum(1, keepdim=True) / n.square().sum(1, keepdim=True) * n
    expected = x + (t_next - t) * (fitted + 2.0 * (c - fitted))
    got = stepped(CFGZeroStar(2.0, zero_steps=0), FLOW, 8, "velocity")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    seen = []
    out = mixed(CFGZeroStar(2.0, 2), FLOW, "velocity", Euler(), on_step=lambda c, x: seen.append(x))
    torch.testing.assert_close(seen[0], MIX_NOISE, rtol=0, atol=1e-15)
    torch.testing.assert_close(seen[1], MIX_NOISE, rtol=0, atol=1e-15)
    assert not torch.allclose(seen[2], MIX_NOISE)
    assert (out.nfe.evaluations, out.nfe.rows) == (6, 8)


@pytest.mark.parametrize("name", ["linear", "flow"])
def test_classifier_guidance_adds_the_gradient_to_the_score(name):
    path, seen = PATHS[name], {}
    cond, _, x, t, t_next = first_step(path, 8, "v")
    mean = torch.tensor([[0.2, 1.0], [-1.0, 0.0], [0.5, -0.5]], dtype=torch.float64)

    def classifier(x, time):
        seen["time"] = time
        return -(x[:, None] - mean).square().sum(-1)

    p = classifier(x, t).softmax(1)
    gradient = 2 * (mean[MIX_LABELS] - (p[..., None] * mean).sum(1))  # of log softmax, by hand
    c, d = path.coefficients(t), path.coefficients(t_next)
    score = cond.score + 0.7 * gradient
    eps = -c.sigma * score
    expected = d.alpha * (x - c.sigma * eps) / c.alpha + d.sigma * eps
    got = stepped(ClassifierGuidance(CFG(1.0), classifier, 0.7), path, 8, "v")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    assert seen["time"].tolist() == pytest.approx([float(path.network_time(t))] * 6)
    # At pure noise there is nothing to classify, and alpha to divide by is 0.
    assert bool(mixed(ClassifierGuidance(CFG(1.0), classifier), FLOW).x0.isfinite().all())


def test_autoguidance_leads_away_from_the_weak_network():
    path = PATHS["linear"]
    cond, _, x, t, t_next = first_step(path, 8, "v")
    weak = Gaussian(path, "x0", mean=0.2, std=1.0)
    c = path.coefficients(t_next)
    worse = weak(x, t).v
    expected = cond.with_native(worse + 2.1 * (cond.v - worse)).combine(c.alpha, c.sigma)
    torch.testing.assert_close(stepped(Autoguidance(weak, 2.1), path, 8, "v"), expected, rtol=0, atol=1e-11)


def test_only_the_first_channels_are_guided_for_published_numbers():
    """channels=3 of 4, as DiT does: the fourth is conditional; the learned variance too."""
    path = PATHS["linear"]

    def network(x, time, labels):
        own = (labels != 3).to(x.dtype)[:, None, None, None]
        return torch.cat([torch.tanh(x) * (1 + own), own + 0 * x], dim=1)

    denoiser = Denoiser(network, path, "eps", null_label=3, learned_variance=True)
    noise, grid = torch.randn(2, 4, 2, 2, dtype=torch.float64), make_grid(path, 2)
    labels = torch.tensor([0, 1])
    seen = {}

    class Looking(CFG):
        def combine(self, predictions, stage):
            seen["out"] = super().combine(predictions, stage)
            return seen["out"]

    for scale in (2.5, 0.0):
        out = sample(denoiser, noise, labels, grid=grid[:2], guidance=Looking(scale, channels=3))
        x = path.coefficients(grid[0]).sigma * noise
        cond, none = 2 * torch.tanh(x), torch.tanh(x)
        torch.testing.assert_close(seen["out"].native[:, :3], (none + scale * (cond - none))[:, :3])
        assert torch.equal(seen["out"].native[:, 3], cond[:, 3])
        assert bool((seen["out"].variance == 1).all())
        assert out.nfe.rows == 2
    with pytest.raises(ValueError, match=r"guidance\.channels must be a whole number of at least 1 or null, got 0"):
        CFG(2.0, channels=0)


def test_learned_variance_of_a_guided_step_is_the_conditional_one():
    """Doubling the classes changes no variance: a guided DDPM step draws with the condition's own."""
    path, seen = PATHS["linear"], []

    def network(x, time, labels):
        own = (labels != 3).to(x.dtype)[:, None]
        seen.append(own)
        return torch.cat([x * 0.5, 2 * own - 1 + 0 * x], dim=1)  # largest with a class, smallest without

    noise = ImageNoise(0, range(2), (3,), dtype=torch.float64)
    start = noise.draw()
    grid = make_grid(path, 10)[:2]
    denoiser = Denoiser(network, path, "eps", null_label=3, learned_variance=True)
    runs = []
    for rule, variance in ((CFG(2.0), "learned"), (CFG(1.0), "large")):
        draw = ImageNoise(1, range(2), (3,), dtype=torch.float64).draw
        labels = torch.tensor([0, 1])
        solver = Ancestral(variance)
        runs.append(sample(denoiser, start, labels, grid=grid, guidance=rule, solver=solver, step_noise=draw).x0)
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "rule", [APG(1.5, 0.0, 1.0), Rescale(CFG(1.5)), CFGZeroStar(1.5, 0)], ids=lambda r: type(r).__name__
)
def test_norms_of_nothing_do_no_harm(rule):
    """A class that is predicted as exactly 0, without contrast, beside one that is not."""
    denoiser = Denoiser(lambda x, t, y: 0 * x + y[:, None].to(x.dtype), FLOW, "x0", null_label=1)
    for label in (0, 1):
        labels = torch.full((2,), label)
        out = sample(denoiser, torch.ones(2, 3), labels, grid=make_grid(FLOW, 4), guidance=rule)
        assert bool(out.x0.isfinite().all())
    still = Denoiser(lambda x, t, y: x, FLOW, "x0", null_label=1)  # its velocity is 0 at pure noise
    assert bool(sample(still, torch.ones(2, 3), labels, grid=make_grid(FLOW, 4), guidance=rule).x0.isfinite().all())


# --- scales as functions of the noise level


def test_scales_follow_the_noise_level():
    flow = LinearScale(1.0, 3.0)
    assert [flow(v) for v in (math.inf, 0.0, -math.inf)] == pytest.approx([1.0, 2.0, 3.0])
    cosine = CosineScale(1.0, 3.0)
    at_quarter = float(FLOW.log_snr(torch.tensor(0.25, dtype=torch.float64)))
    assert cosine(at_quarter) == pytest.approx(1 + (1 - math.cos(math.pi / 4)))
    # The seed's 15 t + 5 in the time of a table.
    table = DiscreteVP.scaled_linear()
    seed = LinearScale(5, 20, path=table)
    assert describe(CFG(seed))["scale"] == {"name": "LinearScale", "low": 5, "high": 20, "path": table.spec}
    for t in (0.001, 0.3, 1.0):
        assert seed(float(table.log_snr(torch.tensor(t, dtype=torch.float64)))) == pytest.approx(15 * t + 5)
    assert (seed(math.inf), seed(-math.inf)) == (5, 20)


def test_a_scale_is_asked_at_each_stage_s_own_level():
    asked, path = [], PATHS["linear"]

    def scale(log_snr):
        asked.append(round(log_snr, 6))
        return 1.0 if log_snr > 0 else 2.0

    out = mixed(CFG(scale), path, solver=Heun("u"), steps=4)
    grid = make_grid(path, 4)
    levels = [round(float(path.log_snr(t)), 6) for t in grid[:-1]]
    assert sorted(set(asked)) == sorted(set(levels))
    below = sum(v <= 0 for v in [levels[0], levels[1], levels[1], levels[2], levels[2], levels[3], levels[3]])
    assert out.nfe.rows == 7 + below
    with pytest.raises(ValueError, match=r"guidance\.scale must be finite at every noise level, got nan at log-SNR"):
        mixed(CFG(lambda log_snr: math.nan))


# --- true noise removal


def test_tnr_of_two_is_cfg_and_its_line():
    """S (CFG at 1/2 + (s_1 - s_0)/2) + (1 - S) e, in eps, at the end of the step."""
    path = PATHS["scaled_linear"]
    for scales in ((1.0, 0.0), (0.3, 1.7), (-0.5, 0.25)):
        a = mixed(TNR(Relative(scales)), path, "eps", Euler())
        b = mixed(TNR(CFG(0.5 + (scales[0] - scales[1]) / 2)), path, "eps", Euler())
        torch.testing.assert_close(a.x0, b.x0, rtol=0, atol=1e-11)


def notebook_step(form, path, scales, seen):
    """The notebook's combination of eps predictions p_k with the initial noise e, as its commits wrote it."""
    e, a, s = seen["e"], seen["a"], torch.tensor(scales, dtype=torch.float64)
    p = torch.stack(seen["p"])
    weigh = s.reshape(-1, 1, 1)
    S, b = 2 - a, p.mean(0)
    st = (weigh * (p - b)).sum(0)
    match form:
        case "840f002":  # away from the noise by lerp, and over it
            q = b + st
            return q + (1 - a) * (q - e)
        case "ce4c281":
            return st + S * b + (1 - S) * (e - st)
        case "nonbary_old":
            return e + S * (weigh * (p - e)).sum(0)
        case "nonbary_head":
            return S * (b + (weigh * (p - e)).sum(0)) + (1 - S) * e


@pytest.mark.parametrize("form", ["840f002", "ce4c281", "nonbary_old", "nonbary_head"])
def test_the_notebook_s_forms(form):
    """One Euler step on latent diffusion's schedule, from index 999 to 932, of predictions with scales 1 and 0.4."""
    path, scales = PATHS["scaled_linear"], (1.0, 0.4)
    t, t_next = torch.tensor([1.0, 0.933], dtype=torch.float64)
    x = path.coefficients(t).sigma * MIX_NOISE
    denoiser = Mixture(path, "eps")
    there = path.coefficients(t_next)
    seen = {"e": MIX_NOISE, "a": there.alpha**0.5, "p": [denoiser(x, t, y).eps for y in (MIX_LABELS, None)]}
    eps = notebook_step(form, path, scales, seen)
    here = path.coefficients(t)
    expected = there.alpha * (x / here.alpha + (there.sigma / there.alpha - here.sigma / here.alpha) * eps)
    compat = form if form.startswith("nonbary") else None
    got = sample(
        denoiser, MIX_NOISE, MIX_LABELS, grid=torch.stack([t, t_next]), guidance=TNR(Relative(scales), compat=compat)
    )
    torch.testing.assert_close(got.x0, expected, rtol=0, atol=1e-10)


def test_compat_counts_a_prediction_that_weighs_nothing_in_the_barycenter():
    """Scales 1 and 0 put weight 1 and 0 on N = 2 around the barycenter, but 3/2 and 1/2 around e."""
    path = PATHS["scaled_linear"]
    assert mixed(TNR(Relative((1.0, 0.0))), path, "eps", Euler()).nfe.rows == 6
    assert mixed(TNR(Relative((1.0, 0.0)), compat="nonbary_head"), path, "eps", Euler()).nfe.rows == 12


def test_strength_at_the_first_step_of_latent_diffusion():
    """2 - sqrt(alpha) at the last entry of the table: 1.739."""
    c = PATHS["scaled_linear"].coefficients(torch.ones((), dtype=torch.float64))
    assert TNR(CFG(1.0)).strength(c) == pytest.approx(1.739, abs=5e-4)


@pytest.mark.parametrize(("kappa", "expected"), [(0.0, (0.9373, 0.9064)), (1.0, (0.9857, 0.9567))])
def test_fifteen_euler_steps_have_the_known_gaussian_law(kappa, expected):
    """x0 = A m + C e for N(m, 1) on the scaled-linear continuous schedule, 15 uniform steps, S at the step's end."""
    path, found = PATHS["vp_scaled"], []
    for mean, noise in ((1.0, 0.0), (0.0, 1.0)):
        start, denoiser = torch.full((1, 1), noise, dtype=torch.float64), Gaussian(path, "eps", mean=mean, std=1.0)
        out = sample(denoiser, start, grid=make_grid(path, 15), guidance=TNR(CFG(1.0), kappa))
        found.append(float(out.x0))
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("solver", [Euler(), RK4(), DPMSolverPP(2), UniPC(2)], ids=str)
def test_gauge_tnr_gives_the_same_picture_on_every_path(solver):
    """S is a function of sigma/alpha, so data, rule and noise levels give one answer in every coordinate system."""
    at = torch.linspace(-5, 7, 10, dtype=torch.float64)
    results = []
    for path in PATHS.values():
        grid = torch.cat([path.t_from_log_snr(at), torch.zeros(1, dtype=torch.float64)])
        denoiser = Gaussian(path, "v", means=MEANS, null_label=3)
        x = path.coefficients(grid[0]).sigma * NOISE
        out = sample(denoiser, NOISE, LABELS, grid=grid, solver=solver, guidance=TNR(CFG(1.5)), start=FromState(x))
        results.append(out.x0)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-8)


def test_tnr_knows_the_noise_now_or_the_noise_at_the_start():
    """The same for an ODE; with fresh noise the ledger and the start disagree."""
    path = PATHS["linear"]
    for solver, same in ((Heun(), True), (DDIM(1.0), False)):
        ends = []
        for noise in ("ledger", "initial"):
            draws = ImageNoise(3, range(6), (2,), dtype=torch.float64)
            out = mixed(TNR(CFG(1.0), noise=noise), path, solver=solver, step_noise=draws.draw)
            ends.append(out.x0)
        assert torch.equal(*ends) == same


def test_tnr_takes_its_strength_where_asked():
    """auto is the end of the step for Euler, else each stage; also for a stochastic solver of order 1."""
    path = PATHS["linear"]
    for solver, same in (
        (Euler(), "end"),
        (Heun(), "stage"),
        (DDIM(1.0), "stage"),
        (DDIM(0.0), "end"),
        (UniPC(1), "stage"),
    ):
        ends = {}
        for at in ("auto", "end", "stage"):
            draws = ImageNoise(3, range(6), (2,), dtype=torch.float64)
            ends[at] = mixed(TNR(CFG(1.0), at=at), path, solver=solver, step_noise=draws.draw).x0
        assert torch.equal(ends["auto"], ends[same])
        assert not torch.equal(ends["end"], ends["stage"])


SAMPLERS = {
    "Euler": Euler(), "Heun": Heun(), "RK4": RK4(), "DPM-Solver-2": DPMSolver2(), "2S": DPMSolverPP(2, multistep=False),
    "2M": DPMSolverPP(2), "3M": DPMSolverPP(3), "UniPC-3": UniPC(3), "DDIM": DDIM(1.0), "DDPM": Ancestral("learned"),
    "SDE": SDEDPMSolverPP(2), "EM": EulerMaruyama(), "churn": Churn(), "Langevin": Langevin(UniPC(2), snr=0.05),
    "dopri5": Dopri5(),
}  # fmt: skip


# --- nests, cost and mistakes


@pytest.mark.parametrize(("ours", "theirs"), [("edm", "x0"), ("edm", "edm"), ("x0", "edm"), ("eps", "edm")])
def test_networks_of_different_kinds_and_data_scales_mix(ours, theirs):
    """What a weak network says is brought into the model's own kind, with the model's own sigma_data."""
    path = PATHS["edm"]

    def seen_as(exact, kind, sigma_data):
        def denoiser(x, t, labels=None):
            p = exact(x, t, labels)
            parts = replace(p, sigma_data=sigma_data).parts(kind)
            return replace(p, native=p.combine(*parts), kind=kind, sigma_data=sigma_data)

        denoiser.path, denoiser.null_label = path, 3
        return denoiser

    weak = Gaussian(path, "x0", std=1.0)
    runs = [
        sample(
            seen_as(Mixture(path, "x0"), a, 0.5), MIX_NOISE, MIX_LABELS, grid=make_grid(path, 6), solver=Heun(),
            guidance=Autoguidance(seen_as(weak, b, 1.0), 2.0),
        ).x0 for a, b in ((ours, theirs), ("x0", "x0"))
    ]  # fmt: skip
    torch.testing.assert_close(*runs, rtol=0, atol=1e-9)


def test_rescale_rescales_whatever_is_not_the_conditional_prediction():
    """Around rules that ask for one pass and change it; not around one that returns it."""
    for inner in (TNR(CFG(1.0)), ClassifierGuidance(CFG(1.0), waves, 3.0), DynamicThreshold(CFG(1.0), 0.5, 0.3)):
        assert not torch.allclose(mixed(Rescale(inner, 1.0)).x0, mixed(inner).x0, atol=1e-3)
    assert torch.equal(mixed(Rescale(CFG(1.0), 1.0)).x0, mixed(None).x0)


@pytest.mark.parametrize("space", ["x0", "native"])
def test_rescale_of_cfg_zero_star_does_not_depend_on_coordinates(space):
    """x0 is the same on every path; the network's own v is, where paths preserve variance."""
    at = torch.linspace(-5, 7, 10, dtype=torch.float64)
    results = []
    for name in ("linear", "vp", "trigonometric") if space == "native" else PATHS:
        path = PATHS[name]
        grid = torch.cat([path.t_from_log_snr(at), torch.zeros(1, dtype=torch.float64)])
        x = path.coefficients(grid[0]).sigma * MIX_NOISE
        rule = Rescale(CFGZeroStar(2.0), 0.7, space)
        out = sample(Mixture(path, "v"), MIX_NOISE, MIX_LABELS, grid=grid, guidance=rule, start=FromState(x))
        results.append(out.x0)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=2e-3 if space == "native" else 1e-8)


def test_cfg_zero_star_never_silences_the_step_to_clean_data():
    for solver, steps in ((Euler(), 1), (Dopri5(), 1), (Euler(), 2)):
        out = mixed(CFGZeroStar(2.0, zero_steps=9), FLOW, "v", solver, steps)
        assert out.nfe.rows > 0
        assert float((out.x0 - MIX_NOISE).abs().max()) > 0.1


@pytest.mark.parametrize("rule", [APG(2.0, space="eps"), Rescale(CFG(2.0), space="score")], ids=["apg", "rescale"])
def test_spaces_that_say_nothing_at_pure_noise_leave_it_alone(rule):
    assert bool(mixed(rule, FLOW, "velocity").x0.isfinite().all())


def test_rules_nest_and_cost_what_they_ask_for():
    path = PATHS["linear"]
    rule = DynamicThreshold(TNR(Rescale(Interval(CFG(2.0), (-2.0, 2.0)), 0.5)), 0.99, 3.0)
    out = mixed(rule, path)
    inside = [-2 <= float(path.log_snr(t)) < 2 for t in make_grid(path, 6)[:-1]]
    assert any(inside)
    assert out.nfe.rows == 11 + sum(2 * b for b in inside[:-1]) + inside[-1]
    assert rule.with_scale(3.0).inner.inner.inner.inner == CFG(3.0)
    assert rule.needs_noise
    names = []
    described = out.spec["guidance"]
    while described:
        names.append(described["name"])
        described = described.get("inner")
    assert names == ["DynamicThreshold", "TNR", "Rescale", "Interval", "CFG"]


def test_a_nest_finds_the_weak_network():
    path = PATHS["linear"]
    out = mixed(TNR(Autoguidance(Gaussian(path), 1.5)), path)
    assert out.nfe.by_network == {"model": 11, "weak": 11}
    assert out.spec["guidance"]["inner"]["weak"] == "Gaussian"


RULES = {
    "CFG": CFG(2.0), "a function": CFG(LinearScale(1.0, 3.0)), "CFG++": CFGPlusPlus(0.6), "APG": APG(2.0),
    "Rescale": Rescale(CFG(2.0)), "threshold": DynamicThreshold(CFG(2.0)), "CFG-Zero*": CFGZeroStar(2.0),
    "Rescale of CFG-Zero*": Rescale(CFGZeroStar(2.0), space="native"), "Compose": Compose((0, 1), (1.0, 1.0)),
    "classifier": ClassifierGuidance(CFG(2.0), waves), "TNR": TNR(CFG(2.0)), "Relative": Relative(),
    "TNR of CFG-Zero*": TNR(CFGZeroStar(2.0)), "Interval": Interval(TNR(APG(2.0)), (-3.0, 3.0)),
    "velocity limit": VelocityLimit(CFG(2.0), 5.0),
}  # fmt: skip


# Of one stage, of several, of several steps, stochastic. Each rule meets one of each, in turn, so that each solver
# meets two rules or more; `make test-all` runs every pair.
GROUPS = [
    ["Euler"],
    ["Heun", "RK4", "DPM-Solver-2", "2S", "dopri5"],
    ["2M", "3M", "UniPC-3"],
    ["DDIM", "DDPM", "SDE", "EM", "churn", "Langevin"],
]
PAIRS = {(rule, group[k % len(group)]) for k, rule in enumerate(RULES) for group in GROUPS}


@pytest.mark.parametrize(
    ("rule", "solver"),
    [
        pytest.param(RULES[r], SAMPLERS[s], id=f"{r}-{s}", marks=() if (r, s) in PAIRS else pytest.mark.slow)
        for r, s in product(RULES, SAMPLERS)
    ],
)
def test_every_rule_runs_in_every_solver(rule, solver):
    """Eight steps from pure noise or nearly, of a network with a learned variance: finite, and of a sane size."""
    for path in (FLOW, PATHS["scaled_linear"]):
        exact = Mixture(path, "v")

        def denoiser(x, t, labels=None, exact=exact):
            prediction = exact(x, t, labels)
            return replace(prediction, variance=torch.zeros_like(x))

        denoiser.path, denoiser.null_label, denoiser.learned_variance = path, 3, True
        draw = ImageNoise(0, range(6), (2,), dtype=torch.float64).draw
        out = sample(
            denoiser, draw(), MIX_LABELS, grid=make_grid(path, 8), solver=solver, guidance=rule, step_noise=draw
        )
        assert float(out.x0.abs().max()) < 60


def test_with_scale_changes_the_scale_alone():
    weak = Gaussian(FLOW)
    for rule, changed in {
        CFG(2.0, negative=1, channels=2): "scale", CFGPlusPlus(0.6, "consistent"): "lam", APG(2.0, 0.1, 3.0): "scale",
        CFGZeroStar(2.0, 3): "scale", Rescale(CFG(2.0), 0.3): "inner", TNR(CFG(2.0), 0.5): "inner",
        Relative((1.0, 0.0)): "scales", ClassifierGuidance(CFG(1.0), waves, 2.0): "scale",
        Compose((0, 2), (1.0, 1.0)): "scales", Interval(CFG(2.0), (0, 1)): "inner",
        VelocityLimit(CFG(2.0)): "inner",
    }.items():  # fmt: skip
        other = rule.with_scale(5.0)
        assert type(other) is type(rule)
        different = [f.name for f in fields(rule) if getattr(rule, f.name) != getattr(other, f.name)]
        assert different == [changed]
    auto = Autoguidance(weak, 2.0).with_scale(5.0)
    assert (auto.weak, auto.scale) == (weak, 5.0)
    with pytest.raises(ValueError, match=r"guidance\.scales=\[1, -1\] sum to 0"):
        Compose((0, 1), (1, -1)).with_scale(2.0)


def test_mistakes_are_refused_before_the_first_call():
    def never(x, t, labels=None):
        raise AssertionError("the network was called")

    never.path, never.null_label = FLOW, 3
    bare = Gaussian(FLOW)
    for make, text in {
        lambda: CFG(float("nan")): r"guidance\.scale must be a finite number or a function of the log-SNR, got nan",
        lambda: CFG("2"): r"guidance\.scale must be a finite number .* got '2'",
        lambda: LinearScale(1.0, math.inf): r"guidance\.scale\.high must be a finite number",
        lambda: CFGPlusPlus(lambda v: 1.0): r"guidance\.lam must be a finite number",
        lambda: CFGPlusPlus(0.5, "x"): r"guidance\.mode must be per_step or consistent, got 'x'",
        lambda: Compose((1, 1), (1.0, 2.0)): r"guidance\.classes and guidance\.scales must be two lists of one length",
        lambda: Compose((1,), (math.nan,)): r"guidance\.scales must be a finite number",
        lambda: Autoguidance(None): r"guidance\.weak must be a second denoiser, got None",
        lambda: ClassifierGuidance(CFG(), None): r"guidance\.classifier must be a callable \(x, time\) -> logits",
        lambda: Rescale(CFG(), 1.5): r"guidance\.phi must lie between 0 and 1, got 1\.5",
        lambda: Rescale(CFG(), 0.5, "pixels"): r"guidance\.space must be one of x0, eps, .*, got 'pixels'",
        lambda: DynamicThreshold(CFG(), 0): r"guidance needs 0 < quantile <= 1 and limit > 0, got quantile=0",
        lambda: APG(2.0, norm_threshold=0): r"guidance\.norm_threshold must be positive or null, got 0",
        lambda: APG(2.0, space="z"): r"guidance\.space must be one of",
        lambda: CFGZeroStar(2.0, -1): r"guidance\.zero_steps must be at least 0, got -1",
        lambda: Relative((1.0,), ("own", None)): r"guidance\.scales and guidance\.labels must be two lists",
        lambda: TNR(CFG(), kappa="abc"): r"guidance\.kappa must be a finite number, got 'abc'",
        lambda: TNR(CFG(), kappa=math.nan): r"guidance\.kappa must be a finite number, got nan",
        lambda: APG(2.0, eta=math.nan): r"guidance\.eta must be a finite number, got nan",
        lambda: APG(2.0, momentum="abc"): r"guidance\.momentum must be a finite number, got 'abc'",
        lambda: CFG(2.0, channels=1.5): r"guidance\.channels must be a whole number of at least 1 or null, got 1\.5",
        lambda: Interval(CFG(2.0), (1,)): r"guidance\.log_snr must be \(low, high\) with low < high, got \(1,\)",
        lambda: Interval(CFG(2.0), (0, 1), "time"): r"guidance\.by must be step or stage, got 'time'",
        lambda: VelocityLimit(CFG(2.0), 0): r"guidance\.max_gain must be a positive number, got 0",
        lambda: ClassifierGuidance(CFG(), waves, LinearScale(1, 2)): r"guidance\.scale must be a finite number, got",
        lambda: Autoguidance(waves): r"guidance\.weak must be a second denoiser",
        lambda: TNR(CFG(), noise="now"): r"guidance\.noise must be ledger or initial, got 'now'",
        lambda: TNR(CFG(), compat="x"): r"guidance\.compat must be nonbary_old, nonbary_head or null, got 'x'",
        lambda: TNR(CFG(), compat="nonbary_old"): r"guidance\.compat=nonbary_old needs Relative inside, got CFG",
    }.items():
        with pytest.raises(ValueError, match=text):
            make()
    for denoiser, rule, labels, text in [
        (never, CFG(2.0, negative=3), MIX_LABELS, r"guidance\.negative=3 must be a label of the model, 0 \.\.\. 2"),
        (never, CFG(2.0, negative="cat"), MIX_LABELS, r"guidance\.negative=cat must be a label of the model"),
        (never, CFG(2.0, negative=1.5), MIX_LABELS, r"guidance\.negative=1\.5 must be a label of the model"),
        (
            never,
            CFG(lambda v: math.nan if v >= 0 else 2.0),
            MIX_LABELS,
            r"guidance\.scale must be finite at every noise",
        ),
        (never, Autoguidance(Gaussian(FLOW, "eps")), MIX_LABELS, "a network that predicts eps cannot start at t=1"),
        (
            never,
            Autoguidance(Gaussian(FLOW, null_label=1)),
            MIX_LABELS,
            "must have the model's 3 classes",
        ),
        (never, Relative((1.0, 0.0), ("own", "foo")), MIX_LABELS, r"guidance\.labels=foo must be a label of the model"),
        (never, Compose((5,), (1.0,)), None, r"guidance\.classes=5 must be a label of the model, 0 \.\.\. 2"),
        (
            bare,
            Compose((1,), (2.0,)),
            None,
            r"guidance\.classes=\[1\] needs a model trained with dropout.class",
        ),
        (bare, CFGPlusPlus(0.6), MIX_LABELS, r"guidance\.lam=0\.6 needs a prediction without class"),
        (bare, APG(2.0), MIX_LABELS, r"guidance\.scale=2 needs a prediction without class"),
        (bare, CFGZeroStar(1.5), MIX_LABELS, r"guidance\.scale=1\.5 needs a prediction without class"),
        (
            bare,
            Relative(),
            MIX_LABELS,
            r"guidance\.labels with a null needs a model trained with",
        ),
        (never, Relative((1.0, 0.0), ("own", 7)), MIX_LABELS, r"guidance\.labels=7 must be a label of the model"),
        (never, CFG(LinearScale(1, 2)), None, r"guidance\.scale=LinearScale needs class labels"),
        (never, ClassifierGuidance(CFG(), bare), None, r"guidance\.classifier needs class labels to lead to"),
        (never, Autoguidance(Gaussian(PATHS["vp"])), MIX_LABELS, r"guidance\.weak must share the model's path"),
    ]:
        with pytest.raises(ValueError, match=text):
            sample(denoiser, MIX_NOISE, labels, grid=make_grid(FLOW, 2), guidance=rule)
    assert bare.calls == 0
