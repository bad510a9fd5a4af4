"""The network is told how a picture was augmented, and nothing changes where it was not."""

import pytest
import torch

from dit.diffusion import Denoiser, LinearFlow
from tests.model.test_dit import awake, batch, tiny


def test_not_augmented_adds_nothing():
    """Zeros, nothing, and a network that was never told are the same to the bit."""
    network, (x, time, labels) = awake(tiny(augment_dim=9)).eval(), batch()
    plain = network(x, time, labels)
    assert torch.equal(network(x, time, labels, augment=torch.zeros(3, 9)), plain)
    without = tiny().eval()
    weights = {key: value for key, value in network.state_dict().items() if key != "augment_embed.weight"}
    without.load_state_dict(weights)
    assert torch.equal(without(x, time, labels), plain)


def test_the_network_of_before_is_unchanged():
    """No weight, no name and no random number more where nothing is told."""
    torch.manual_seed(0)
    before = tiny().state_dict()
    torch.manual_seed(0)
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), tiny(augment_dim=0).state_dict().values(), strict=True)
    )
    assert "augment_embed.weight" not in before
    assert set(tiny(augment_dim=4).state_dict()) - set(before) == {"augment_embed.weight"}


@pytest.mark.parametrize("conditioning", ["adaln_zero", "adaln", "adaln_single", "in_context", "cross_attention"])
def test_the_condition_is_seen_row_by_row(conditioning):
    network, (x, time, labels) = awake(tiny(augment_dim=2, conditioning=conditioning)).eval(), batch()
    told = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    plain, changed = network(x, time, labels), network(x, time, labels, augment=told)
    torch.testing.assert_close(changed[0], plain[0], rtol=0, atol=1e-6)
    assert all((changed[row] - plain[row]).abs().max() > 1e-4 for row in (1, 2))


def test_it_is_added_to_the_time():
    network, (x, time, labels) = awake(tiny(augment_dim=2)).eval(), batch()
    told = torch.randn(3, 2)
    with torch.no_grad():
        expected = network.time_embed(time) + told @ network.augment_embed.weight.T
        network.conditioning.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        seen = []
        network(x, time, labels, augment=told)
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-6)


def test_a_network_in_bfloat16_takes_float32_conditions():
    network, (x, time, labels) = awake(tiny(augment_dim=2)).to(torch.bfloat16), batch()
    assert network(x.bfloat16(), time, labels, augment=torch.ones(3, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(("dim", "shape"), [(0, (3, 9)), (9, (3, 4)), (9, (1, 9)), (9, (9,))])
def test_other_conditions_are_refused(dim, shape):
    x, time, labels = batch()
    with pytest.raises(
        ValueError, match=rf"augment must have shape \(3, {dim}\) for this network, got \({shape[0]}, ?"
    ):
        tiny(augment_dim=dim)(x, time, labels, augment=torch.zeros(shape))


@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_dimensions_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match=r"model\.augment_dim must be a whole number of at least 0, got"):
        tiny(augment_dim=value)


def test_a_denoiser_hands_other_conditions_to_any_network():
    given = {}

    def network(x, time, labels, **conditions):
        given.update(conditions)
        return x

    x, depth = torch.randn(3, 1, 4, 4), torch.randn(3, 7)
    denoiser = Denoiser(network, LinearFlow(), "velocity")
    denoiser(x, torch.tensor(0.5), None, depth=depth, augment=None)
    assert given == {"depth": depth, "augment": None}
    given.clear()
    denoiser(x, torch.tensor(0.5), None)
    assert given == {}


def test_checkpointed_and_compiled_networks_take_it():
    (x, time, labels), told = batch(), torch.randn(3, 2)
    plain = awake(tiny(augment_dim=2)).eval()
    expected = plain(x, time, labels, augment=told)
    saving = awake(tiny(augment_dim=2, activation_checkpointing=True)).eval()
    torch.testing.assert_close(saving(x, time, labels, augment=told), expected, rtol=0, atol=1e-6)
    names = list(plain.state_dict())
    plain.compile(backend="aot_eager")
    torch.testing.assert_close(plain(x, time, labels, augment=told), expected, rtol=1e-5, atol=1e-6)
    assert list(plain.state_dict()) == names
