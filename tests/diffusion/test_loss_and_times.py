"""Losses against closed forms, and the laws of t against their distribution functions."""

import pytest
import torch

from dit.diffusion import KINDS, MSE, LogitNormal, Uniform
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


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize(
    ("law", "cdf"),
    [
        (Uniform, lambda t: t),
        (
            lambda stratified: LogitNormal(stratified=stratified, mean=-0.4, std=1.3),
            lambda t: torch.special.ndtr((t.logit() + 0.4) / 1.3),
        ),
    ],
    ids=["uniform", "logit_normal"],
)
def test_times_follow_their_law(law, cdf, stratified):
    """Kolmogorov-Smirnov at 20,000 draws: 1.95 / sqrt(n) is exceeded by chance once in a thousand runs."""
    t = law(stratified=stratified).sample(20_000).sort().values
    assert ((t > 0) & (t < 1)).all()
    empirical = (torch.arange(20_000) + 0.5) / 20_000
    assert float((cdf(t) - empirical).abs().max()) < 1.95 / 20_000**0.5


def test_a_stratified_batch_has_one_draw_in_each_stratum():
    t = Uniform(stratified=True).sample(64)
    assert (t * 64).floor().long().tolist() == list(range(64))
    assert len((Uniform(stratified=False).sample(64) * 64).floor().unique()) < 64


def test_times_are_never_an_end():

    for law in (Uniform(), LogitNormal()):
        assert law.quantile(torch.tensor([2**-25, 1 - 2**-24])).isfinite().all()
    many = Uniform(stratified=True).sample(2**20)
    assert float(many.min()) > 0
    assert float(many.max()) < 1


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"loss\.space must be one of x0, eps, v, velocity, score, edm, got 'pixels'"):
        MSE("pixels")
    with pytest.raises(ValueError, match=r"times\.std must be positive, got 0"):
        LogitNormal(std=0)
    with pytest.raises(ValueError, match=r"loss\.max_gain must be positive or null, got -1"):
        MSE("x0", max_gain=-1)
