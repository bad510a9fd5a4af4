"""Power-function averages: closed forms of the profile, of averages, and of how some make up another."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from dit.checkpoint.power import LONGEST, check_length, fit, gamma
from dit.training import Ema, PowerEma
from tests.training.test_ema import network_with

LENGTHS = (0.01, 0.05, 0.1, 0.2, 0.28)


def fill(network, value):
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(value)


def run(ema, values):
    """Averages after the weights went through `values`, the first being the initial weights."""
    network = network_with(values[0])
    ema.attach(network)
    for value in values[1:]:
        fill(network, value)
        ema.update(network)
    return [float(average["bias"]) for average in ema.averages.values()]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_is_the_standard_deviation_of_the_profile(length):
    """Moments of (g + 1) s^g on (0, 1]: E s = (g + 1) / (g + 2), E s^2 = (g + 1) / (g + 3)."""
    g = gamma(length)
    assert math.sqrt((g + 1) / (g + 3) - ((g + 1) / (g + 2)) ** 2) == pytest.approx(length, rel=1e-8)
    assert g == pytest.approx(max(np.roots([1, 7, 16 - length**-2, 12 - length**-2]).real), rel=1e-9)


def test_the_longest_average_is_the_mean_of_all_steps():
    assert gamma(LONGEST) == pytest.approx(0, abs=1e-12)
    assert run(PowerEma([LONGEST]), [100.0, 1.0, 2.0, 6.0]) == [pytest.approx(3.0)]
    assert (gamma(0.05), gamma(0.1)) == (pytest.approx(16.97, abs=0.005), pytest.approx(6.94, abs=0.005))  # as EDM2


@pytest.mark.parametrize("trajectory", ["linear", "cosine"])
def test_averages_are_the_closed_form(trajectory):
    """At step n the weights of step s count (s^a - (s - 1)^a) / n^a, a = gamma + 1: the integral of the profile over
    the step. In rational numbers for the plain mean, in float64 for the others."""
    n = 200
    values = [{"linear": float(s), "cosine": 1 + math.cos(s / 20)}[trajectory] for s in range(n + 1)]
    lengths = [*LENGTHS, LONGEST]
    averages = run(PowerEma(lengths), values)
    for length, average in zip(lengths, averages, strict=True):
        a = gamma(length) + 1
        exact = sum(v * ((s / n) ** a - ((s - 1) / n) ** a) for s, v in enumerate(values) if s > 0)
        assert average == pytest.approx(exact, rel=2e-6)
        if trajectory == "linear":  # the integral of s p(s), which the steps round up
            assert 0 < average - n * a / (a + 1) < 1
    assert averages[-1] == pytest.approx(float(sum(map(Fraction, values[1:])) / n), rel=2e-6)


def test_the_initial_weights_leave_no_trace():
    assert run(PowerEma([0.05, 0.2]), [1e30, 1.0, 1.0]) == [1.0, 1.0]


@pytest.mark.parametrize("ema", [Ema([0.9, 0.5]), PowerEma([0.05, 0.1])], ids=["decays", "lengths"])
def test_fused_updates_are_the_loop_bit_for_bit(ema):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    ema.attach(network)
    loop = {name: {key: t.clone() for key, t in average.items()} for name, average in ema.averages.items()}
    for _ in range(20):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn_like(p))
        ema.update(network)
        for name, average in loop.items():
            for key, weight in network.named_parameters():
                average[key].lerp_(weight.detach(), 1 - ema.decay_now(name))
                assert torch.equal(average[key], ema.averages[name][key])


def test_averages_of_bfloat16_weights_are_float32():
    network = network_with(1.0).to(torch.bfloat16)
    ema = PowerEma([0.01])
    ema.attach(network)
    for _ in range(999):
        ema.update(network)
    fill(network, 1.0078125)  # the next bfloat16
    ema.update(network)
    average = ema.averages["length 0.01"]["bias"]
    assert average.dtype == torch.float32
    assert float(average) == pytest.approx(1 + 0.0078125 * (1 - 0.999 ** (gamma(0.01) + 1)), abs=2e-7)


def test_sharded_weights_have_sharded_averages(tmp_path):
    """DTensors as FSDP2 makes them, in a world of one process, give the bits of plain tensors."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        averages = []
        for sharded in (False, True):
            network, ema = network_with(1.0), PowerEma([0.1, 0.05])
            if sharded:
                for name, p in list(network.named_parameters()):
                    setattr(network, name, nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])))
            ema.attach(network)
            for value in (2.0, 5.0, 3.0):
                fill(network, value)
                ema.update(network)
            with ema.applied(network, "length 0.05"):
                seen = network.bias.detach().clone()
            assert float(network.bias.detach().sum()) == 3.0
            averages.append((seen, ema.averages["length 0.1"]["weight"]))
        for plain, theirs in zip(*averages, strict=True):
            assert type(theirs).__name__ == "DTensor"
            assert torch.equal(plain, theirs.full_tensor())
    finally:
        dist.destroy_process_group()


def test_an_average_of_another_sort_cannot_be_resumed():
    """A decay and a length may be the same number."""
    decays, lengths = Ema([0.1]), PowerEma([0.1])
    run(decays, [1.0, 2.0])
    run(lengths, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"ema\.lengths asks for length 0\.1, but the checkpoint holds 0\.1"):
        PowerEma([0.1]).load_state_dict(decays.state_dict())
    with pytest.raises(ValueError, match=r"ema\.decays asks for 0\.1, but the checkpoint holds length 0\.1"):
        Ema([0.1]).load_state_dict(lengths.state_dict())


def test_bad_lengths_are_refused():
    for bad in ([], 0.05, "0.05"):
        with pytest.raises(ValueError, match=r"ema\.lengths must be a list of one or more numbers, got"):
            PowerEma(bad)
    for bad in (0, -0.1, 0.3, math.nan, "x", True):
        with pytest.raises(
            ValueError, match=r"ema\.lengths must be a share of the run above 0 and at most 0\.2887, got"
        ):
            PowerEma([0.05, bad])
    with pytest.raises(ValueError, match=r"ema\.lengths must differ, got \[0\.1, 0\.1\]"):
        PowerEma([0.1, 0.1])
    check_length("length", LONGEST)


def profile(length, end, s):
    g = gamma(length)
    return np.where(s <= end, (g + 1) * (s / end) ** g / end, 0.0)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_the_fit_is_the_best_sum_of_profiles_that_sums_to_one(length):
    """Against numpy's least squares on a grid of 40,000 points, with the constraint put in by elimination."""
    lengths, steps = [0.05, 0.1] * 5, [100 * (i // 2 + 1) for i in range(10)]
    s = (np.arange(40_000) + 0.5) / 80
    columns = np.stack([profile(*pair, s) for pair in zip(lengths, steps, strict=True)], axis=1)
    wanted = profile(length, 500, s)
    rest, *_ = np.linalg.lstsq(columns[:, :-1] - columns[:, -1:], wanted - columns[:, -1], rcond=None)
    coefficients = [*rest, 1 - rest.sum()]
    found = fit(lengths, steps, length, 500)
    assert found.coefficients == pytest.approx(coefficients, abs=1e-4)
    residual = np.linalg.norm(columns @ coefficients - wanted) / np.linalg.norm(wanted)
    assert found.residual == pytest.approx(residual, rel=1e-4)


@pytest.mark.parametrize("count", [1, 20, 400])
def test_a_tracked_average_is_its_own_fit_and_coefficients_sum_to_one(count):
    lengths, steps = [0.05, 0.1] * count, [1000 * (i // 2 + 1) for i in range(2 * count)]
    found = fit(lengths, steps, 0.1, 1000 * count)
    assert found.residual < 1e-7
    assert found.coefficients == pytest.approx([0.0] * (2 * count - 1) + [1.0], abs=1e-6)
    assert sum(fit(lengths, steps, 0.07, 1000 * count).coefficients) == pytest.approx(1, abs=1e-8)
