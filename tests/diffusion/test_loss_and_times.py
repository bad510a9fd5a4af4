"""Losses against closed forms, and the laws of t against their distribution functions."""

import math

import pytest
import torch

from dit.diffusion import (
    KINDS,
    Denoiser,
    LogitNormal,
    LogNormalSigma,
    LogUniformSigma,
    Prediction,
    Uniform,
    spread,
    token_shift,
)
from dit.objectives import MSE, CosineDirection, HybridVLB, LearnedUncertainty, MinSNR
from tests.diffusion.judging import judged
from tests.exact import PATHS, Gaussian


@pytest.mark.parametrize("space", KINDS)
@pytest.mark.parametrize("native", KINDS)
@pytest.mark.parametrize("path", [PATHS["flow"], PATHS["linear"]], ids=["flow", "linear"])
def test_loss_of_the_exact_denoiser_is_the_irreducible_error(path, native, space):
    """In x0 space the posterior variance s^2 sigma^2 / v; other spaces by the squared factor between the kinds.

    One test for every combination of kind and space: within 4 standard errors of 40,000 draws.
    """
    count, std, t = 40_000, 0.5, torch.tensor(0.4, dtype=torch.float64)
    x0 = 0.7 + std * torch.randn(count, 3, dtype=torch.float64)
    eps = torch.randn(count, 3, dtype=torch.float64)
    prediction = Gaussian(path, native, mean=0.7, std=std)(path.interpolate(x0, eps, t), t)
    losses = MSE(space)(prediction, x0, eps)
    c = path.coefficients(t)
    alpha, sigma = float(c.alpha), float(c.sigma)
    posterior = std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)
    # With x_t known an error dx0 comes with deps = -(alpha/sigma) dx0, hence in the kind a x0 + b eps:
    factor = {
        "x0": 1.0,
        "eps": alpha / sigma,
        "v": sigma + alpha**2 / sigma,
        "velocity": float(c.d_alpha) - float(c.d_sigma) * alpha / sigma,
        "score": alpha / sigma**2,
        "edm": (alpha**2 + sigma**2) ** 0.5 / sigma,
    }[space]
    standard_error = float(losses.std()) / count**0.5
    assert float(losses.mean()) == pytest.approx(posterior * factor**2, abs=4 * standard_error)


def test_kind_and_space_are_independent_sample_by_sample():
    path, t = PATHS["flow"], torch.linspace(0.05, 0.95, 16, dtype=torch.float64)
    x0, eps = torch.randn(2, 16, 3, 2, 2, dtype=torch.float64)
    x = path.interpolate(x0, eps, t)
    for space in KINDS:
        reference = MSE(space)(Gaussian(path, "x0")(x, t), x0, eps)
        assert reference.shape == (16,)
        for kind in KINDS:
            torch.testing.assert_close(
                MSE(space)(Gaussian(path, kind)(x, t), x0, eps), reference, rtol=1e-8, atol=1e-12
            )


def test_max_gain_limits_the_factor():
    """x0 seen as velocity on a flow costs 1/t; a limit of 20 is a floor of 0.05 on t."""
    path, t = PATHS["flow"], torch.tensor([0.01, 0.05, 0.5], dtype=torch.float64)
    x0, eps = torch.zeros(3, 1, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    exact = Gaussian(path, "x0")(path.interpolate(x0, eps, t), t)
    off = exact.with_native(x0 + 1)
    assert MSE("velocity", max_gain=20)(off, x0, eps).tolist() == pytest.approx([400, 400, 4])
    assert MSE("velocity")(off, x0, eps).tolist() == pytest.approx([1e4, 400, 4])


@pytest.mark.parametrize("native", ["x0", "eps", "velocity"])
@pytest.mark.parametrize(
    ("loss", "weight"),
    [
        (MinSNR(5.0), lambda snr: min(snr, 5.0)),
        (MinSNR(0.5), lambda snr: min(snr, 0.5)),
        (MinSNR(4.0, soft=True), lambda snr: 4 * snr / (4 + snr)),
        # EDM, table 1: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, here for sigma_data 1.
        (MSE("edm"), lambda snr: snr + 1),
        # What others call truncated, soft or plain is a space here.
        (MSE("v"), lambda snr: snr + 1),
        (MSE("eps"), lambda snr: snr),
    ],
    ids=["min_snr", "min_snr_low", "soft_min_snr", "edm", "v", "eps"],
)
@pytest.mark.parametrize("path", [PATHS["linear"], PATHS["edm"]], ids=["linear", "edm"])
def test_weight_on_the_irreducible_error_of_x0(path, loss, weight, native):
    """The exact denoiser's loss is the posterior variance times the weight, within 4 standard errors of 40,000."""
    for log_snr in (-1.0, 0.5, 2.5):
        snr = math.exp(log_snr)
        t = path.t_from_log_snr(torch.tensor(log_snr, dtype=torch.float64))
        x0 = 0.7 + 0.5 * torch.randn(40_000, 2, dtype=torch.float64)
        eps = torch.randn_like(x0)
        losses = loss(Gaussian(path, native)(path.interpolate(x0, eps, t), t), x0, eps)
        scale = float(path.coefficients(t).alpha ** 2 + path.coefficients(t).sigma ** 2)
        space = weight(snr) * (scale if loss == MSE("v") else 1)  # v of a path that does not keep the variance
        posterior = 0.25 / (1 + 0.25 * snr)
        standard_error = float(losses.std()) / 200
        assert float(losses.mean()) == pytest.approx(posterior * space, abs=4 * standard_error)


def test_edm_weighting_is_unit_weight_on_a_preconditioned_output():
    """For data of another standard deviation the factor is (sigma^2 + sigma_data^2) / (sigma sigma_data)^2."""
    path, t, sigma_data = PATHS["edm"], PATHS["edm"].t_from_log_snr(torch.tensor(-1.3, dtype=torch.float64)), 0.4
    x0, eps = torch.randn(2, 8, 3, dtype=torch.float64)
    prediction = Gaussian(path, "x0")(path.interpolate(x0, eps, t), t)
    prediction = type(prediction)(prediction.native, "x0", prediction.x, prediction.coefficients, sigma_data)
    sigma = math.exp(0.65)
    factor = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    torch.testing.assert_close(MSE("edm")(prediction, x0, eps), factor * MSE("x0")(prediction, x0, eps))


def test_weights_are_finite_at_both_ends():
    path, t = PATHS["flow"], torch.tensor([0.0, 1.0], dtype=torch.float64)
    x0, eps = torch.randn(2, 2, 3, dtype=torch.float64)
    x = path.interpolate(x0, eps, t)
    exact = Gaussian(path, "velocity")(x, t)
    off = exact.with_native(exact.native + 0.1)
    for loss in (MinSNR(5.0), MinSNR(5.0, soft=True)):
        assert loss(off, x0, eps).isfinite().all()
        assert float(loss(off, x0, eps)[1]) == 0  # no signal, no weight


def test_learned_uncertainty_starts_as_the_loss_and_becomes_its_logarithm():
    """The minimum of L e^-u + u is u = ln L. A least-squares fit of its features reaches it to a per cent."""
    path, inner = PATHS["linear"], MSE("eps")
    loss = LearnedUncertainty(inner, channels=64)
    t = torch.linspace(0.05, 0.95, 128)
    x0, eps = torch.randn(2, 128, 4)
    exact = Gaussian(path, "eps")(path.interpolate(x0, eps, t), t)
    level = 0.1 + t[:, None] ** 2
    off = exact.with_native(exact.native_of(x0, eps) + level.sqrt())  # a loss of exactly `level` at each t
    first = judged(loss, path, off, x0, eps, t)
    assert torch.equal(first.per_sample, inner(off, x0, eps))
    optimizer = torch.optim.LBFGS(loss.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        mean = judged(loss, path, off, x0, eps, t).per_sample.mean()
        mean.backward()
        return mean

    optimizer.step(closure)
    u = loss.log_loss(path.log_snr(t))
    torch.testing.assert_close(u.exp(), level[:, 0], rtol=0.02, atol=0)
    assert torch.equal(judged(loss, path, off, x0, eps, t).parts["unweighed"], first.per_sample)
    assert [name for name, _ in loss.named_parameters()] == ["weights"]


def test_learned_uncertainty_is_float32_under_autocast():
    loss = LearnedUncertainty(MSE("x0"))
    with torch.no_grad():
        loss.weights.normal_()
    levels = torch.linspace(-8, 8, 64)
    plain = loss.log_loss(levels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss.log_loss(levels), plain)


@pytest.mark.parametrize("inner", [LearnedUncertainty(MSE("x0")), HybridVLB(MSE("eps"))], ids=["learned", "hybrid"])
def test_an_objective_goes_outside_of_a_loss(inner):
    """Inside, its forward pass would be left out, and nobody would train its weights."""
    name = type(inner).__name__
    for outer in (CosineDirection, HybridVLB):
        with pytest.raises(ValueError, match=rf"loss\.inner cannot be {name}, an objective; put it outside of the"):
            outer(inner)


def test_learned_uncertainty_goes_around_objectives():
    """It asks of the denoiser what they ask, trains what they train, and keeps their parts."""
    learned, path = LearnedUncertainty(HybridVLB(MSE("eps"))), PATHS["linear"]
    assert learned.learns_variance
    assert not LearnedUncertainty(MSE("x0")).learns_variance
    with pytest.raises(ValueError, match=r"loss=hybrid_vlb needs a path with steps"):
        learned.check(Denoiser(torch.nn.Identity(), PATHS["flow"], "eps"))
    x0, eps, native, variance = torch.randn(4, 3, 2)
    t = torch.tensor([0.1, 0.5, 0.9])
    said = Prediction(native, "eps", path.interpolate(x0, eps, t), path.coefficients(t), variance=variance.tanh())
    parts = judged(learned, path, said, x0, eps, t).parts
    assert parts.keys() == {"error", "bound", "unweighed"}
    assert torch.equal(parts["unweighed"], judged(learned.inner, path, said, x0, eps, t).per_sample)


def test_a_direction_over_one_channel_is_refused():
    path, t = PATHS["flow"], torch.tensor([0.3])
    x0, eps = torch.randn(2, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="loss=cosine compares directions over the channels; pictures of one channel"):
        CosineDirection(MSE("velocity"))(Gaussian(path)(path.interpolate(x0, eps, t), t), x0, eps)


def test_learned_uncertainty_has_the_same_features_for_the_same_seed():
    one, two, other = (
        LearnedUncertainty(MSE("x0")),
        LearnedUncertainty(MSE("x0")),
        LearnedUncertainty(MSE("x0"), seed=1),
    )
    assert torch.equal(one.frequencies, two.frequencies)
    assert not torch.equal(one.frequencies, other.frequencies)


def test_cosine_direction_compares_velocities_over_the_channels():
    path, t = PATHS["flow"], torch.tensor([0.3, 0.3, 0.3])
    x0, eps = torch.randn(2, 3, 4, 2, 2)
    for kind in ("velocity", "x0"):
        exact = Gaussian(path, kind)(path.interpolate(x0, eps, t), t)
        true = exact.with_native(exact.native_of(x0, eps))
        base = MSE("velocity")
        torch.testing.assert_close(CosineDirection(base)(true, x0, eps), torch.zeros(3), rtol=0, atol=1e-5)
    velocity = Gaussian(path, "velocity")(path.interpolate(x0, eps, t), t)
    flipped = velocity.with_native(-2 * velocity.native_of(x0, eps))
    extra = CosineDirection(MSE("velocity"), weight=0.5)(flipped, x0, eps) - MSE("velocity")(flipped, x0, eps)
    torch.testing.assert_close(extra, torch.full((3,), 0.5 * 2))  # cos is -1 everywhere
    turned = velocity.native_of(x0, eps).clone()
    turned[:, :, 0] *= -1  # half of the pixels
    extra = CosineDirection(MSE("velocity"))(velocity.with_native(turned), x0, eps)
    extra = extra - MSE("velocity")(velocity.with_native(turned), x0, eps)
    torch.testing.assert_close(extra, torch.ones(3))


def normal(x):
    return torch.special.ndtr(x)


def log_sigma(path, t):
    return -path.log_snr(t.double()) / 2


LAWS = {
    "uniform": (Uniform, {}, lambda path, t: t),
    "logit_normal": (LogitNormal, {"mean": -0.4, "std": 1.3}, lambda path, t: normal((t.logit() + 0.4) / 1.3)),
    "log_normal_sigma": (
        LogNormalSigma, {"mean": -1.0, "std": 0.8}, lambda path, t: normal((log_sigma(path, t) + 1.0) / 0.8)
    ),
    "log_uniform_sigma": (
        LogUniformSigma,
        {"low": 0.05, "high": 20.0},
        lambda path, t: (log_sigma(path, t) - math.log(0.05)) / math.log(20 / 0.05),
    ),
}  # fmt: skip


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("path", [PATHS["flow"], PATHS["linear"], PATHS["edm"]], ids=["flow", "linear", "edm"])
@pytest.mark.parametrize("name", LAWS)
def test_times_follow_their_law(name, path, stratified):
    """Kolmogorov-Smirnov at 20,000 draws: 1.95 / sqrt(n) is exceeded by chance once in a thousand runs."""
    law, arguments, cdf = LAWS[name]
    t = law(stratified=stratified, **arguments).sample(20_000, path).sort().values
    assert ((t > 0) & (t < 1)).all()
    empirical = (torch.arange(20_000) + 0.5) / 20_000
    assert float((cdf(path, t) - empirical).abs().max()) < 1.95 / 20_000**0.5


@pytest.mark.parametrize("path", [PATHS["flow"], PATHS["linear"]], ids=["flow", "linear"])
def test_a_shift_multiplies_sigma_over_alpha_of_every_draw(path):
    generators = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    plain = LogitNormal(std=0.5).sample(64, path, generator=generators[0])
    shifted = LogitNormal(std=0.5, shift=3.0).sample(64, path, generator=generators[1])
    moved = path.log_snr(plain.double()) - path.log_snr(shifted.double())
    torch.testing.assert_close(moved, torch.full_like(moved, 2 * math.log(3)), rtol=2e-3, atol=0)


def test_the_shift_by_tokens_is_the_root_of_their_number():
    assert token_shift(32, 2) == 1
    assert token_shift(64, 2) == 2
    assert token_shift(64, 4, base_tokens=64) == pytest.approx(2.0)


def test_a_stratified_batch_has_one_draw_in_each_stratum():
    path = PATHS["flow"]
    t = Uniform(stratified=True).sample(64, path)
    assert (t * 64).floor().long().tolist() == list(range(64))
    assert len((Uniform(stratified=False).sample(64, path) * 64).floor().unique()) < 64


@pytest.mark.parametrize("places", [1, 2, 7, 64, 1000])
def test_the_places_of_a_batch_have_one_draw_in_each_stratum(places):
    t = Uniform().at(torch.rand(places), spread(places), places, PATHS["flow"])
    assert sorted((t * places).floor().long().tolist()) == list(range(places))


@pytest.mark.parametrize("shares", [2, 4, 16])
def test_whatever_run_of_places_a_process_takes_has_all_noise_levels(shares):
    """No share of a batch of 256 leaves out more than twice its mean gap."""
    for share in spread(256).chunk(shares):
        edges = torch.cat([torch.tensor([-1]), share.sort().values, torch.tensor([256])])
        assert int(edges.diff().max()) <= 2 * shares


def test_times_are_never_an_end():
    path = PATHS["flow"]
    for law in (Uniform(), LogitNormal(), LogNormalSigma(), LogUniformSigma()):
        assert law.quantile(torch.tensor([2**-25, 1 - 2**-24]), path).isfinite().all()
    many = Uniform(stratified=True).sample(2**20, path)
    assert float(many.min()) > 0
    assert float(many.max()) < 1
    beyond = LogUniformSigma(1e-9, 1e9).sample(1000, PATHS["linear"])  # the table holds neither
    assert ((beyond > 0) & (beyond < 1)).all()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_cleanest_time_is_a_level_in_float32(path):
    """On EDM's path sigma is 0 in float32 at times that float32 still tells from 0: what a network is told, and what a
    loss makes of it, must be finite all the same."""
    t = Uniform(stratified=True).sample(2**20, path)[:2]
    x0, eps = torch.randn(2, 2, 3)
    assert path.network_time(t).isfinite().all()
    assert path.log_snr(t).isfinite().all()
    exact = Gaussian(path, "edm")(path.interpolate(x0, eps, t), t)
    for loss in (MSE("edm"), MinSNR(5.0), LearnedUncertainty(MSE("edm"))):
        assert judged(loss, path, exact, x0, eps, t).per_sample.isfinite().all()


def test_times_beyond_the_path_are_refused():
    """They would pile up at its last level."""
    table, flow = PATHS["linear"], PATHS["flow"]
    for law in (Uniform(shift=3.0), LogNormalSigma(3.0, 2.0), LogUniformSigma(0.01, 1e6)):
        with pytest.raises(ValueError, match=r"times reaches beyond the path, whose last sigma/alpha is 157\.4: more"):
            law.check(table)
        law.check(flow)
    for law in (Uniform(), LogitNormal(), LogNormalSigma(), LogUniformSigma()):
        law.check(table)
        law.check(PATHS["edm"])


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"loss\.space must be one of x0, eps, v, velocity, score, edm, got 'pixels'"):
        MSE("pixels")
    with pytest.raises(ValueError, match=r"times\.std must be a positive number, got 0"):
        LogitNormal(std=0)
    with pytest.raises(ValueError, match=r"loss\.max_gain must be a positive number, got -1"):
        MSE("x0", max_gain=-1)
    with pytest.raises(ValueError, match=r"times\.std must be a positive number, got -1"):
        LogNormalSigma(std=-1)
    with pytest.raises(ValueError, match=r"times\.high must exceed times\.low=2, got 1"):
        LogUniformSigma(2, 1)
    with pytest.raises(ValueError, match=r"times\.shift must be a positive number, got 0"):
        Uniform(shift=0)
    with pytest.raises(ValueError, match=r"loss\.gamma must be a positive number, got 0"):
        MinSNR(0)
    with pytest.raises(ValueError, match=r"times\.shift must be a positive number, got 'abc'"):
        Uniform(shift="abc")
