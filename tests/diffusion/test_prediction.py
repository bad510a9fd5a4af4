"""Predictions: all views agree with each other, and none divides by what nobody asked for."""

import math

import pytest
import torch

from dit.diffusion import KINDS, Denoiser, LinearFlow, Prediction, VarianceExploding, VPContinuous
from dit.diffusion.prediction import parts
from dit.solvers import make_grid
from tests.exact import PATHS

X0, EPS = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def truth(path, t, kind):
    """The prediction of a network that knows x0 and eps."""
    c = path.coefficients(t)
    a, b = parts(kind, c.like(X0))
    return Prediction(a * X0 + b * EPS, kind, path.interpolate(X0, EPS, t), c)


@pytest.mark.parametrize("native", KINDS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_views_round_trip(path, native):
    """At sigma/alpha from 1e-3 to 1e3, or as far as the path goes."""
    u = torch.tensor([1e-3, 0.03, 1.0, 30.0, 1e3], dtype=torch.float64)
    t = path.t_from_log_snr(-2 * u.log())
    prediction = truth(path, t, native)
    for kind in KINDS:
        expected = truth(path, t, kind).native
        torch.testing.assert_close(prediction.view(kind), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in PATHS if name != "shifted"])
def test_each_kind_is_what_its_paper_says(name):
    path = PATHS[name]
    t, h = torch.tensor([0.1503, 0.2003, 0.5003, 0.8003, 0.9703], dtype=torch.float64), 1e-6
    c = path.coefficients(t).like(X0)
    prediction = truth(path, t, "x0")
    assert torch.equal(prediction.x0, X0)
    torch.testing.assert_close(prediction.eps, EPS, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(prediction.v, c.alpha * EPS - c.sigma * X0, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(prediction.score, -EPS / c.sigma, rtol=1e-8, atol=1e-9)
    slope = (path.interpolate(X0, EPS, t + h) - path.interpolate(X0, EPS, t - h)) / (2 * h)
    torch.testing.assert_close(prediction.velocity, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_native_view_is_untouched(kind):
    native = torch.full((2, 3), float("nan"))
    coefficients = LinearFlow().coefficients(torch.tensor(1.0))
    assert Prediction(native, kind, torch.zeros(2, 3), coefficients).view(kind) is native


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("native", ["v", "velocity"])
def test_bounded_kinds_are_finite_and_right_at_both_ends_of_the_grid(path, native):
    for t in make_grid(path, 4)[[0, -1]]:
        if native == "velocity" and isinstance(path, VPContinuous | VarianceExploding) and t == 0:
            continue  # sigma rises as sqrt(t), or not at all, there: no velocity says anything
        prediction = truth(path, t, native)
        torch.testing.assert_close(prediction.x0, X0, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(prediction.eps, EPS, rtol=1e-6, atol=1e-6)


def test_eps_and_x0_are_finite_where_they_mean_something():
    """eps at both ends of a table (two shipped configurations start there); on a flow at data, x0 at noise."""
    for name in ("linear", "scaled_linear"):
        for t in make_grid(PATHS[name], 4)[[0, -1]]:
            torch.testing.assert_close(truth(PATHS[name], t, "eps").x0, X0, rtol=1e-9, atol=1e-9)
    flow = LinearFlow()
    data, noise = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(truth(flow, data, "eps").x0, X0)
    torch.testing.assert_close(truth(flow, noise, "x0").eps, EPS)


@pytest.mark.parametrize("std", [0.5, 1.0])
def test_edm_s_preconditioning(std):
    """D = c_skip z + c_out F(c_in z, ln(u)/4); with data of unit variance F is -v."""
    path, seen = PATHS["edm"], {}

    def network(x, time, labels):
        seen.update(x=x, time=time)
        return torch.tanh(x)

    t, x = torch.tensor(0.6, dtype=torch.float64), 3 * X0
    u = float(path.coefficients(t).sigma)
    prediction = Denoiser(network, path, "edm", sigma_data=std)(x, t)
    c_in, c_skip = (u**2 + std**2) ** -0.5, std**2 / (u**2 + std**2)
    torch.testing.assert_close(seen["x"], c_in * x)
    assert seen["time"].tolist() == pytest.approx([math.log(u) / 4] * 5)
    torch.testing.assert_close(prediction.x0, c_skip * x + u * std * c_in * torch.tanh(c_in * x))
    if std == 1:
        torch.testing.assert_close(-prediction.v / (1 + u**2) ** 0.5, prediction.native)
        vp = truth(PATHS["linear"], t, "v")
        torch.testing.assert_close(vp.view("edm"), -vp.native)
    with pytest.raises(ValueError, match="sigma_data must be positive, got 0"):
        Denoiser(network, path, "edm", sigma_data=0)


def test_a_learned_variance_is_the_second_half():
    def network(x, time, labels):
        return torch.cat([x + 1, x - 1], dim=1)

    x = torch.randn(2, 3, 4)
    prediction = Denoiser(network, LinearFlow(), "velocity", learned_variance=True)(x, torch.tensor(0.5))
    assert torch.equal(prediction.native, x + 1)
    assert torch.equal(prediction.variance, x - 1)
    with pytest.raises(ValueError, match=r"returned shape \(2, 6, 4\) .* has shape \(2, 3, 4\)"):
        Denoiser(network, LinearFlow(), "velocity")(x, torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"a velocity prediction with a learned variance has shape \(2, 6, 4\)"):
        Denoiser(lambda x, t, y: x, LinearFlow(), "velocity", learned_variance=True)(x, torch.tensor(0.5))


def test_gain_is_the_factor_between_errors():
    for path in PATHS.values():
        t = torch.tensor([0.15, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
        for native in KINDS:
            exact = truth(path, t, native)
            wrong = exact.with_native(exact.native + 0.01)
            for kind in KINDS:
                error = wrong.view(kind) - exact.view(kind)
                torch.testing.assert_close(error, (wrong.gain(kind) * 0.01).expand_as(error), rtol=1e-6, atol=1e-9)


def test_denoiser_keeps_time_in_float32_and_brings_the_answer_back():
    seen = {}

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))

        def forward(self, x, time, labels):
            seen.update(x=x.dtype, time=time, labels=labels)
            return x * self.weight

    denoiser = Denoiser(Half(), LinearFlow(), "velocity", null_label=7)
    prediction = denoiser(torch.randn(2, 3), torch.tensor(0.9991, dtype=torch.float64))
    assert seen["x"] == torch.bfloat16
    assert seen["time"].dtype == torch.float32
    assert seen["time"].tolist() == pytest.approx([999.1, 999.1])
    assert seen["labels"].tolist() == [7, 7]
    assert prediction.native.dtype == torch.float32


def test_wrong_kind_and_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="kind must be one of x0, eps, v, velocity, score, edm, got 'noise'"):
        Denoiser(lambda x, t, y: x, LinearFlow(), "noise")
    with pytest.raises(ValueError, match=r"returned shape \(2, 6\) for an input of shape \(2, 3\)"):
        Denoiser(lambda x, t, y: x.repeat(1, 2), LinearFlow(), "eps")(torch.zeros(2, 3), torch.tensor(0.5))
