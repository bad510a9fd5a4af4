"""Under autocast: bfloat16 where the work is, float32 where digits count, the same on every device."""

import pytest
import torch
from torch import nn

from dit.model import DiT
from dit.model.attention import attend
from dit.model.block import modulate
from dit.model.norm import make_norm

VARIANTS = [
    {},
    {"position": "learned", "norm": "rmsnorm", "qk_norm": True},
    {"position": "rope", "qk_norm": True},
    {"position": "none", "conditioning": "in_context"},
    {"position": "learned_rope", "conditioning": "cross_attention", "bottleneck": 4, "class_tokens": 2},
    {"conditioning": "adaln_single", "norm": "rmsnorm", "attention": "reference"},
]


def tiny(**changes):
    sizes = {"patch_size": 4, "hidden_size": 16, "depth": 3, "num_heads": 2, **changes}
    network = DiT(image_size=8, channels=1, num_classes=10, **sizes)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs():
    return torch.randn(4, 1, 8, 8), torch.tensor([1.0, 400.0, 997.0, 999.0]), torch.arange(4)


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_time_norms_and_the_stream_of_tokens_stay_in_float32(changes):
    network, dtypes = tiny(**changes), {}
    for name, part in network.named_modules():
        part.register_forward_hook(
            lambda part, given, out, name=name: dtypes.update({name: out.dtype} if torch.is_tensor(out) else {})
        )
    with autocast():
        network(*inputs())
    blocks = [f"blocks.{number}" for number in range(3)]
    islands = ["time_embed", "time_embed.enter", "time_embed.leave", "final.norm", *blocks]
    islands += [f"{block}.{norm}" for block in blocks for norm in ("norm1", "norm2")]
    assert {dtypes[name] for name in islands} == {torch.float32}
    work = [f"{block}.{part}" for block in blocks for part in ("mlp", "attention", "attention.qkv")]
    assert {dtypes[name] for name in work} == {torch.bfloat16}


def test_the_embedding_of_time_does_not_notice_autocast():
    embed, times = tiny(hidden_size=64).time_embed, torch.arange(900.0, 1000.0)
    with autocast():
        mixed = embed(times)
    assert torch.equal(mixed, embed(times))


@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_norms_of_bfloat16_are_those_of_float32_rounded_once(name):
    norm, x = make_norm(name, 16, modulated=False), (8 + torch.randn(4, 6, 16)).bfloat16()
    nn.init.normal_(norm.weight)
    with autocast():
        mixed = norm(x)
    assert torch.equal(mixed, norm(x.float()).bfloat16())
    assert torch.equal(norm(x), mixed)


def test_a_modulated_norm_of_bfloat16_is_that_of_float32_rounded_once():
    """The values lie far from zero, where a variance that is added up in bfloat16 would be wrong."""
    norm, x = make_norm("layernorm", 384, modulated=True), (8 + torch.randn(4, 64, 384)).bfloat16()
    with autocast():
        mixed = norm(x)
    for rounded in (mixed, norm(x)):
        assert rounded.dtype is torch.bfloat16
        torch.testing.assert_close(rounded.float(), norm(x.float()), rtol=2**-8, atol=1e-5)


def test_the_reference_attention_computes_in_float32_under_autocast():
    q, k, v = torch.randn(3, 2, 4, 6, 8).unbind()
    with autocast():
        mixed = attend(q, k, v, "reference")
    assert torch.equal(mixed, attend(q, k, v, "reference"))


def test_a_small_scale_survives_modulation():
    x, scale = torch.ones(1, 1, 4), torch.full((1, 1, 4), 0.001).bfloat16()
    assert float((modulate(x, torch.zeros(1, 1, 4), scale) - 1).mean()) == pytest.approx(0.001, rel=2**-8)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_network_cast_to_bfloat16_runs_in_it(changes):
    x, time, labels = inputs()
    assert tiny(**changes).bfloat16()(x.bfloat16(), time, labels).dtype is torch.bfloat16
