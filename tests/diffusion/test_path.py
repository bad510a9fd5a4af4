"""Paths: derivatives, inverses, ends, and the beta tables they come from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit.diffusion import (
    DiscreteVP,
    LinearFlow,
    Prediction,
    Shifted,
    Trigonometric,
    VarianceExploding,
    VPContinuous,
    path_from_spec,
)
from dit.diffusion.prediction import parts
from tests.exact import PATHS

OWN_TIME = {name: path for name, path in PATHS.items() if name != "shifted"}  # whose derivatives are of the path inside


@pytest.mark.parametrize("path", OWN_TIME.values(), ids=OWN_TIME)
def test_derivatives_equal_autograd(path):
    # Away from the knots of a table (multiples of 1/1000), where only one-sided derivatives exist.
    t = torch.tensor([0.00031, 0.01037, 0.2503, 0.5004, 0.8007, 0.99953], dtype=torch.float64, requires_grad=True)
    c = path.coefficients(t)
    for value, derivative in ((c.alpha, c.d_alpha), (c.sigma, c.d_sigma)):
        (auto,) = torch.autograd.grad((value + 0 * t).sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, auto, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@settings(deadline=None)
@given(t=st.floats(1e-3, 0.9999))
def test_t_from_log_snr_inverts_log_snr(path, t):
    t = torch.tensor(t, dtype=torch.float64)
    torch.testing.assert_close(path.t_from_log_snr(path.log_snr(t)), t, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_log_snr_falls_strictly(path):
    t = torch.linspace(1e-3, 0.999, 4001, dtype=torch.float64)
    assert (path.log_snr(t).diff() < 0).all()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_t_from_log_snr_stays_inside_the_path(path):
    t = path.t_from_log_snr(torch.tensor([-60.0, 60.0], dtype=torch.float64))
    assert ((t >= 0) & (t <= 1)).all()
    assert t[0] > t[1]


@pytest.mark.parametrize(
    "name", ["linear", "scaled_linear", "cosine", "sigmoid", "zero_terminal_snr", "trigonometric", "vp", "vp_scaled"]
)
def test_variance_preserving_paths_preserve_variance(name):
    c = PATHS[name].coefficients(torch.linspace(0, 1, 1777, dtype=torch.float64))
    torch.testing.assert_close(c.alpha**2 + c.sigma**2, torch.ones(1777, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_data_end_is_exactly_clean(path):
    c = path.coefficients(torch.zeros((), dtype=torch.float64))
    assert (float(c.alpha), float(c.sigma)) == (1, 0)


@pytest.mark.parametrize(
    ("path", "u_first", "u_last"),
    # Goldens: sigma/alpha of the first and last table entry, Ho et al. 2020 / Rombach et al. 2022 betas.
    [(DiscreteVP.linear(), 0.0100, 157.4), (DiscreteVP.scaled_linear(), 0.0292, 14.61)],
    ids=["linear", "scaled_linear"],
)
def test_beta_tables_have_the_known_ends(path, u_first, u_last):
    c = path.coefficients(torch.tensor([0.001, 1.0], dtype=torch.float64))
    torch.testing.assert_close(
        c.sigma / c.alpha, torch.tensor([u_first, u_last], dtype=torch.float64), rtol=3e-3, atol=0
    )


def test_continuous_schedules_have_the_known_ends():
    """sqrt(expm1(integral of beta)) at t = 1: 152.2 for the linear one, 14.462695 for latent diffusion's."""
    for name, golden in {"vp": 152.2, "vp_scaled": 14.462695}.items():
        c = PATHS[name].coefficients(torch.ones((), dtype=torch.float64))
        assert float(c.sigma / c.alpha) == pytest.approx(golden, rel=1e-3 if name == "vp" else 1e-7)


def test_cosine_table_ends_as_clipped():
    c = PATHS["cosine"].coefficients(torch.tensor([0.999, 1.0], dtype=torch.float64))
    before, last = (c.sigma / c.alpha).tolist()
    assert before == pytest.approx(642, rel=2e-3)
    assert last == pytest.approx(2.03e4, rel=2e-2)


@pytest.mark.parametrize(
    "constructor", [DiscreteVP.linear, DiscreteVP.scaled_linear, DiscreteVP.cosine, DiscreteVP.sigmoid]
)
def test_table_entry_i_has_i_plus_one_betas_applied(constructor):
    """alpha at t = (i + 1) / T is the product of i + 1 factors: the off-by-one that loses signal at every step."""
    path = constructor(steps=50)
    again = DiscreteVP(torch.linspace(0.01, 0.3, 50).double().tolist())
    t = (torch.arange(50, dtype=torch.float64) + 1) / 50
    alpha_bar = torch.cumprod(1 - torch.linspace(0.01, 0.3, 50).double(), 0)
    torch.testing.assert_close(again.coefficients(t).alpha, alpha_bar.sqrt(), rtol=1e-12, atol=0)
    assert (path.coefficients(t).alpha.diff() < 0).all()
    torch.testing.assert_close(path.network_time(t), torch.arange(50, dtype=torch.float64))


def test_table_entries_are_found_from_their_log_snr():
    """The DDPM grid through t_from_log_snr: every entry of the table comes back at its own index."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    path = DiscreteVP.linear()
    t = path.t_from_log_snr((alpha_bar / (1 - alpha_bar)).log())
    torch.testing.assert_close(t, (torch.arange(1000, dtype=torch.float64) + 1) / 1000, rtol=0, atol=1e-9)
    torch.testing.assert_close(path.coefficients(t).alpha.square(), alpha_bar, rtol=1e-9, atol=0)


def test_zero_terminal_snr_moves_the_last_entry_and_keeps_the_first():
    """sqrt(alpha_bar) shifted and stretched: alpha_bar_0 stays .99915, alpha_T is 0, differences keep their ratio."""
    plain, moved = (DiscreteVP.scaled_linear(zero_terminal_snr=flag) for flag in (False, True))
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    before, after = plain.coefficients(t).alpha, moved.coefficients(t).alpha
    assert float(after[0]) ** 2 == pytest.approx(0.99915, abs=1e-8)
    assert (float(after[-1]), float(moved.coefficients(t).sigma[-1])) == (0, 1)
    torch.testing.assert_close(
        (after[:-1] - after[1:]) / (before[:-1] - before[1:]),
        torch.full((999,), float(before[0] / (before[0] - before[-1])), dtype=torch.float64),
    )
    # Before the last entry alpha/sigma is linear: half of it is left half-way.
    c = moved.coefficients(torch.tensor([0.999, 0.9995], dtype=torch.float64))
    assert float((c.alpha / c.sigma)[1]) == pytest.approx(float((c.alpha / c.sigma)[0]) / 2)
    short = DiscreteVP([0.2, 0.3, 0.4], zero_terminal_snr=True).coefficients(
        torch.linspace(0, 1, 31, dtype=torch.float64)
    )
    torch.testing.assert_close(short.alpha**2 + short.sigma**2, torch.ones(31, dtype=torch.float64), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="zero_terminal_snr needs a table of at least three betas"):
        DiscreteVP([0.1, 0.2], zero_terminal_snr=True)


def test_sigmoid_table_follows_its_formula():
    """alpha_bar at t: 1/2 half-way by symmetry, floored at the end."""
    path = DiscreteVP.sigmoid()
    c = path.coefficients(torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64))
    sg = torch.sigmoid(torch.tensor([-3.0, 3.0, -1.5], dtype=torch.float64))
    expected = [float((sg[1] - sg[2]) / (sg[1] - sg[0])), 0.5, 1e-9]
    assert c.alpha.square().tolist() == pytest.approx(expected, rel=1e-9)


def test_variance_exploding_is_edm_s_grid_and_conditioning():
    path, t = PATHS["edm"], torch.linspace(0, 1, 11, dtype=torch.float64)
    c = path.coefficients(t)
    torch.testing.assert_close(c.sigma, (80 ** (1 / 7) * t) ** 7, rtol=1e-12, atol=0)
    assert bool((c.alpha == 1).all())
    torch.testing.assert_close(path.network_time(t[1:]), c.sigma[1:].log() / 4)
    with pytest.raises(ValueError, match="path needs sigma_max > 0 and rho >= 1, got 0 and 7"):
        VarianceExploding(sigma_max=0)


@pytest.mark.parametrize("shift", [0.3, 3.0])
@pytest.mark.parametrize("name", ["flow", "trigonometric", "zero_terminal_snr"])
def test_shifted_multiplies_u_and_keeps_what_the_network_knows(name, shift):
    base, path = PATHS[name], Shifted(PATHS[name], shift)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    here, there = base.coefficients(t), path.coefficients(t)
    torch.testing.assert_close(there.sigma / there.alpha, shift * here.sigma / here.alpha, rtol=1e-9, atol=0)
    inner = base.t_from_log_snr(path.log_snr(t))
    torch.testing.assert_close(path.network_time(t), base.network_time(inner))
    torch.testing.assert_close(there.d_sigma, base.coefficients(inner).d_sigma, rtol=1e-9, atol=1e-12)
    for end in (0.0, 1.0):
        end = torch.tensor(end, dtype=torch.float64)
        assert float(path.coefficients(end).alpha) == float(base.coefficients(end).alpha)
    if name == "flow":
        torch.testing.assert_close(there.sigma, shift * t / (1 + (shift - 1) * t))  # SD3's formula


def test_bad_shifts_are_refused():
    with pytest.raises(ValueError, match=r"path\.shift must be positive, got 0"):
        Shifted(LinearFlow(), 0)
    with pytest.raises(ValueError, match=r"path\.shift=2 above 1 needs a path that reaches pure noise"):
        Shifted(PATHS["linear"], 2)
    assert float(Shifted(PATHS["linear"], 0.5).coefficients(torch.tensor(1.0)).sigma) < 1


def test_between_entries_log_u_is_linear():
    path = DiscreteVP.linear()
    t = torch.tensor([0.400, 0.4005, 0.401], dtype=torch.float64)
    low, middle, high = path.log_snr(t).tolist()
    assert middle == pytest.approx((low + high) / 2, rel=1e-10)


def test_velocity_is_the_time_derivative_of_the_interpolation():
    x0, eps = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    for path in OWN_TIME.values():
        t, h = torch.tensor([0.2503, 0.5003, 0.9003], dtype=torch.float64), 1e-6
        c = path.coefficients(t).like(x0)
        slope = (path.interpolate(x0, eps, t + h) - path.interpolate(x0, eps, t - h)) / (2 * h)
        torch.testing.assert_close(c.d_alpha * x0 + c.d_sigma * eps, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "path", [*PATHS.values(), DiscreteVP([0.1, 0.2, 0.3], zero_terminal_snr=True), LinearFlow(time_scale=1.0)]
)
def test_spec_rebuilds_the_path(path):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    again = path_from_spec(path.spec)
    assert torch.equal(again.coefficients(t).sigma, path.coefficients(t).sigma)
    assert torch.equal(again.network_time(t), path.network_time(t))


@pytest.mark.parametrize("path", [LinearFlow, Trigonometric, VPContinuous])
def test_conventions_of_others_are_the_same_on_every_continuous_path(path):
    plain, other = path(), path(time_scale=1.0, data_time=True, noise_scale=2.0)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    here, there = plain.coefficients(t), other.coefficients(t)
    assert torch.equal(there.alpha, here.alpha)
    assert torch.equal(there.sigma, 2 * here.sigma)
    (auto,) = torch.autograd.grad(there.sigma.sum(), t)
    torch.testing.assert_close(there.d_sigma, auto, rtol=1e-9, atol=0)
    torch.testing.assert_close(other.t_from_log_snr(other.log_snr(t)), t, rtol=1e-9, atol=0)
    assert torch.equal(other.network_time(t), 1 - t)
    assert torch.equal(plain.network_time(t), 1000 * t)
    # x0 and eps of unit variance come out of every kind, whatever the scale of the noise.
    x0, eps, at = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64), t.detach()
    c = other.coefficients(at)
    for kind in ("eps", "v", "velocity", "score"):
        a, b = parts(kind, c.like(x0))
        said = Prediction(a * x0 + b * eps, kind, other.interpolate(x0, eps, at), c)
        torch.testing.assert_close(said.x0, x0)
        torch.testing.assert_close(said.eps, eps)


def test_specs_hold_only_the_conventions_that_are_not_the_default():
    """So that what was written before they existed stays equal."""
    assert LinearFlow().spec == {"name": "LinearFlow", "time_scale": 1000.0}
    assert LinearFlow(time_scale=1.0, data_time=True).spec == {
        "name": "LinearFlow",
        "time_scale": 1.0,
        "data_time": True,
    }
    assert Trigonometric().spec == {"name": "Trigonometric"}
    assert VPContinuous().spec == {"name": "VPContinuous", "beta_min": 0.1, "beta_max": 20.0, "power": 1}
    for path in (Trigonometric, VPContinuous):
        other = path(time_scale=1.0, data_time=True, noise_scale=2.0)
        assert other.spec == path().spec | {"time_scale": 1.0, "data_time": True, "noise_scale": 2.0}
        assert path_from_spec(other.spec) == other


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise_scale": 0}, r"path\.noise_scale must be a positive number, got 0"),
        ({"noise_scale": float("nan")}, r"path\.noise_scale must be a positive number, got nan"),
        ({"time_scale": True}, r"path\.time_scale must be a positive number, got True"),
        ({"data_time": "yes"}, r"path\.data_time must be true or false, got 'yes'"),
    ],
)
def test_bad_conventions_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Trigonometric(**wrong)


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match=r"betas must be .* inside \(0, 1\)"):
        DiscreteVP([0.1, 1.0])
    with pytest.raises(ValueError, match="steps of a beta table must be a whole number from 2 to 1,000,000, got 1"):
        DiscreteVP.linear(steps=1)
    with pytest.raises(ValueError, match="path 'Spiral' is unknown; known are LinearFlow"):
        path_from_spec({"name": "Spiral"})
