"""Averages: closed forms, an exchange that always gives back, and a state that survives."""

import copy

import pytest
import torch
from torch import nn

from dit.training import Ema


def network_with(value):
    network = nn.Linear(2, 1)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(value)
    return network


def run(ema, values):
    """Averages after the weights went through `values`, the first being the initial weights."""
    network = network_with(values[0])
    ema.attach(network)
    for value in values[1:]:
        with torch.no_grad():
            for p in network.parameters():
                p.fill_(value)
        ema.update(network)
    return {decay: float(average["bias"]) for decay, average in ema.averages.items()}


def test_constant_weights_stay():
    assert run(Ema([0.9, 0.99]), [3.0] * 20) == {"0.9": pytest.approx(3.0), "0.99": pytest.approx(3.0)}


def test_linear_weights_without_warmup_lag_by_the_closed_form():
    """For w_n = n from 0: avg_n = n - d (1 - d^n) / (1 - d)."""
    n, averages = 30, run(Ema([0.9, 0.5], warmup=0), list(range(31)))
    for d in (0.9, 0.5):
        assert averages[str(d)] == pytest.approx(n - d * (1 - d**n) / (1 - d), rel=1e-5)


def test_warmup_one_is_the_plain_mean_until_the_decay_takes_over():
    """d = n / (n + 1) gives the mean of all weights so far, initial ones included: n / 2 for w_n = n."""
    assert run(Ema([0.999], warmup=1), list(range(31)))["0.999"] == pytest.approx(15.0, rel=1e-5)
    ema = Ema([0.5], warmup=1)
    run(ema, [0.0] * 10)
    assert ema.decay_now("0.5") == 0.5


def test_averages_are_float32_whatever_the_network_is():
    """A step of 1e-4 in bfloat16 would vanish; the average must move."""
    network = network_with(1.0).to(torch.bfloat16)
    ema = Ema([0.9999], warmup=0)
    ema.attach(network)
    with torch.no_grad():
        network.bias.fill_(2.0)
    ema.update(network)
    assert ema.averages["0.9999"]["bias"].dtype == torch.float32
    assert float(ema.averages["0.9999"]["bias"]) == pytest.approx(1.0001, abs=1e-6)


def test_applied_gives_back_the_weights_also_when_the_body_raises():
    network, ema = network_with(5.0), Ema([0.9, 0.5], warmup=0)
    ema.attach(network)
    with torch.no_grad():
        network.bias.fill_(7.0)
    ema.update(network)
    live = copy.deepcopy(network.state_dict())
    network.requires_grad_(False)
    with ema.applied(network):
        assert float(network.bias) == pytest.approx(5.2)
    with ema.applied(network, "0.5"):
        assert float(network.bias) == pytest.approx(6.0)
    with pytest.raises(RuntimeError, match="on purpose"), ema.applied(network):
        raise RuntimeError("on purpose")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, live[name])


def test_a_compiled_network_sees_the_averages():
    network, ema = network_with(1.0), Ema([0.5], warmup=0)
    ema.attach(network)
    network.compile(backend="aot_eager")
    x = torch.ones(1, 2)
    with torch.no_grad():
        assert float(network(x)) == 3.0
        network.bias.fill_(2.0)
        ema.update(network)
        with ema.applied(network):
            assert float(network(x)) == 3.5
        assert float(network(x)) == 4.0


def test_state_round_trips_and_shares_no_memory():
    ema = Ema([0.9])
    run(ema, [1.0, 2.0, 3.0])
    state = copy.deepcopy(ema.state_dict())
    again = Ema([0.9])
    again.load_state_dict(state)
    network = network_with(0.0)
    again.attach(network)
    assert again.steps == 2
    assert torch.equal(again.averages["0.9"]["weight"], ema.averages["0.9"]["weight"])
    with torch.no_grad():
        network.bias.fill_(100.0)
    again.update(network)
    assert torch.equal(state["averages"]["0.9"]["bias"], ema.averages["0.9"]["bias"])


def test_bad_decays_are_refused():
    for bad in ([], 0.9, [1.0], [-0.1], [0.9, 1.5]):
        with pytest.raises(ValueError, match=r"ema\.decays must be a list of one or more numbers in \[0, 1\)"):
            Ema(bad)
    with pytest.raises(ValueError, match=r"ema\.decays must differ, got \[0\.9, 0\.9\]"):
        Ema([0.9, 0.9])
    with pytest.raises(ValueError, match=r"ema\.warmup must not be negative, got -1"):
        Ema([0.9], warmup=-1)
    ema = Ema([0.9])
    run(ema, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"ema\.decays asks for 0\.7, but the checkpoint holds 0\.9"):
        Ema([0.7]).load_state_dict(ema.state_dict())
