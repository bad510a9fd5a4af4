"""The loss of a learned variance, against what is known of the reverse chain of Gaussian data."""

import math

import pytest
import torch

from dit.diffusion import Denoiser, DiscreteVP, LinearFlow, Prediction
from dit.diffusion.posterior import ReverseStep
from dit.objectives import MSE, HybridVLB
from tests.diffusion.judging import judged
from tests.exact import Gaussian

PATH = DiscreteVP.linear()


def step(index, dtype=torch.float64):
    """The chain from entry `index` to the one below."""
    t = torch.tensor([(index + 1) / PATH.num_steps, index / PATH.num_steps], dtype=dtype)
    c = PATH.coefficients(t)
    here, there = (type(c)(*(getattr(c, f)[i] for f in ("alpha", "sigma", "d_alpha", "d_sigma"))) for i in (0, 1))
    return t[0], there, ReverseStep.between(here, there)


def test_variances_of_a_step_are_those_of_the_betas():
    """beta, and beta tilde = (1 - alpha_bar before) / (1 - alpha_bar) beta (Ho et al. 2020, eq. 7)."""
    betas = torch.linspace(1e-4, 0.02, PATH.num_steps, dtype=torch.float64)
    bar = (1 - betas).cumprod(0)
    for index in (1, 40, 998):
        _, _, chain = step(index)
        assert float(chain.large) == pytest.approx(float(betas[index]), rel=1e-9)
        assert float(chain.small) == pytest.approx(
            float((1 - bar[index - 1]) / (1 - bar[index]) * betas[index]), rel=1e-9
        )


@pytest.mark.parametrize("index", [20, 200, 800])
def test_bound_of_the_true_reverse_variance_is_the_known_one(index):
    """For Gaussian data p(x_s | x_t) is Gaussian: its variance is small + (share alpha_s)^2 var(x0 | x_t), and with it
    the expected divergence from q(x_s | x_t, x0) is half the logarithm of variance / small. Any other costs more."""
    std, count = 0.5, 200_000
    t, there, chain = step(index)
    x0 = 0.7 + std * torch.randn(count, 2, dtype=torch.float64)
    eps = torch.randn_like(x0)
    exact = Gaussian(PATH, "eps", std=std)(PATH.interpolate(x0, eps, t), t)
    c = PATH.coefficients(t)
    posterior = std**2 * c.sigma**2 / (c.alpha**2 * std**2 + c.sigma**2)
    true = chain.small + (chain.share * there.alpha) ** 2 * posterior
    between = 2 * (true / chain.small).log() / (chain.large / chain.small).log() - 1

    def bound(offset):
        variance = torch.full_like(x0, float(between) + offset)
        prediction = Prediction(exact.native, "eps", exact.x, exact.coefficients, variance=variance)
        return HybridVLB(MSE("eps")).bound(prediction, PATH, x0)

    losses = bound(0.0)
    expected = float((true / chain.small).log()) / 2 / math.log(2)
    assert float(losses.mean()) == pytest.approx(expected, abs=4 * float(losses.std()) / count**0.5)
    assert float(bound(0.2).mean()) > float(losses.mean())
    assert float(bound(-0.2).mean()) > float(losses.mean())


def test_hybrid_is_the_inner_loss_plus_weight_times_steps_times_the_bound_sample_by_sample():
    x0, eps, native, variance = torch.randn(4, 6, 3, 2, 2, dtype=torch.float64)
    t = torch.tensor([5e-4, 1e-3, 2e-3, 0.1, 0.5, 0.99], dtype=torch.float64)
    x = PATH.interpolate(x0, eps, t)
    prediction = Prediction(native, "eps", x, PATH.coefficients(t), variance=variance.tanh())
    loss = HybridVLB(MSE("eps"), weight=0.25)
    together = judged(loss, PATH, prediction, x0, eps)
    error, bound = MSE("eps")(prediction, x0, eps), 1000 * loss.bound(prediction, PATH, x0)
    torch.testing.assert_close(together.per_sample, error + 0.25 * bound)
    assert torch.equal(together.parts["error"], error)
    assert torch.equal(together.parts["bound"], bound)
    for i in range(6):
        one = Prediction(
            native[i : i + 1], "eps", x[i : i + 1], PATH.coefficients(t[i : i + 1]), variance=variance[i : i + 1].tanh()
        )
        alone = judged(loss, PATH, one, x0[i : i + 1], eps[i : i + 1])
        torch.testing.assert_close(alone.per_sample, together.per_sample[i : i + 1])


def test_bound_trains_the_variance_alone():
    """The gradient at the mean is that of the inner loss, bit for bit; the variance gets one from the bound."""
    x0, eps, native, variance = torch.randn(4, 4, 3)
    t = torch.tensor([5e-4, 0.01, 0.4, 0.9])
    x = PATH.interpolate(x0, eps, t)
    gradients = []
    for loss in (MSE("eps"), HybridVLB(MSE("eps"))):
        mean, log = native.clone().requires_grad_(), variance.clone().requires_grad_()
        prediction = Prediction(mean, "eps", x, PATH.coefficients(t), variance=log)
        judged(loss, PATH, prediction, x0, eps).per_sample.sum().backward()
        gradients.append((mean.grad, log.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert gradients[0][1] is None
    assert (gradients[1][1] != 0).all()


def test_first_entry_is_the_likelihood_of_bytes():
    """The probabilities of all 256 bytes add up to one, whatever mean and variance are."""
    pixels = torch.arange(256, dtype=torch.float64)[:, None] / 127.5 - 1  # [256, 1], one value a sample
    x = torch.full((256, 1), 0.1, dtype=torch.float64)
    t = torch.tensor(1e-3, dtype=torch.float64)
    for mean, between in ((0.4, -1.0), (0.4, 0.3), (0.4, 1.0), (-0.999, 1.0), (0.999, 1.0)):
        prediction = Prediction(
            torch.full_like(x, mean), "x0", x, PATH.coefficients(t), variance=torch.full_like(x, between)
        )
        bits = HybridVLB(MSE("x0")).bound(prediction, PATH, pixels)
        shown = bits < 39  # where the probability is not floored
        assert float((2 ** -bits[shown]).sum()) == pytest.approx(1, abs=1e-9)


def test_variance_of_the_first_entry_lies_between_those_of_the_second_and_its_own():
    """Its own posterior has none; published models put the second's there."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    t = torch.tensor(1e-3, dtype=torch.float64)
    likelihood = []
    for between in (-1.0, 1.0):
        prediction = Prediction(x, "x0", x, PATH.coefficients(t), variance=torch.full_like(x, between))
        likelihood.append(2 ** -float(HybridVLB(MSE("x0")).bound(prediction, PATH, x)))
    for got, variance in zip(likelihood, (step(1)[2].small, step(0)[2].large), strict=True):
        inside = math.erf((1 / 255) / math.sqrt(2 * float(variance)))
        assert got == pytest.approx(inside, rel=1e-6)


def test_a_path_without_steps_is_refused():
    with pytest.raises(ValueError, match=r"loss=hybrid_vlb needs a path with steps, DiscreteVP; got LinearFlow"):
        HybridVLB(MSE("eps")).check(Denoiser(torch.nn.Identity(), LinearFlow(), "eps"))
