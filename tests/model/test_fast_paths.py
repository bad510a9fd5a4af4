"""Ways to compute the same faster: their outputs and gradients are those of the plain way."""

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from dit.model import DiT, attention
from dit.model.attention import attend
from dit.model.linear import Linear


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def attended(compute, dtype=torch.float32, tokens=16, kv_heads=4):
    """Output and gradients of q, k and v, of the same draws whatever the dtype."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, heads, tokens, 8) for heads in (4, kv_heads, kv_heads, 4)]
    q, k, v, weight = (torch.randn(size, generator=generator).to(dtype) for size in sizes)
    inputs = [each.requires_grad_() for each in (q, k, v)]
    output = compute(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, weight)]


def operations(function, *inputs):
    """Names of the calls in the graph that torch.compile makes of it."""
    names = []

    def backend(graph, _):
        names.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call_"))
        return graph.forward

    torch.compile(function, backend=backend, fullgraph=True)(*inputs)
    return names


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_plain_attention_is_sdpa_in_float32(kv_heads):
    for a, b in zip(
        attended(attention._plain, kv_heads=kv_heads), attended(attention._sdpa, kv_heads=kv_heads), strict=True
    ):
        assert relative(a, b) < 1e-5


def test_plain_attention_is_at_most_twice_as_far_from_float32_as_sdpa_in_bfloat16():
    exact = attended(lambda *qkv: attend(*qkv, "reference"), torch.bfloat16)
    plain, sdpa = attended(attention._plain, torch.bfloat16), attended(attention._sdpa, torch.bfloat16)
    for mine, theirs, wanted in zip(plain, sdpa, exact, strict=True):
        assert mine.dtype is torch.bfloat16
        assert relative(mine, wanted) < 2 * relative(theirs, wanted)


@pytest.mark.parametrize(
    ("tokens", "dtype", "plain"),
    [(512, torch.bfloat16, True), (513, torch.bfloat16, False), (16, torch.float32, False)],
)
def test_plain_attention_is_for_short_compiled_bfloat16_alone(tokens, dtype, plain):
    heads = torch.zeros(3, 1, 1, tokens, 8, dtype=dtype)
    names = operations(lambda q, k, v: attend(q, k, v), *heads)
    assert any("scaled_dot_product" in name for name in names) is not plain
    assert any("softmax" in name for name in names) is plain


@pytest.mark.parametrize(
    ("dtype", "gradients", "apart"),
    [(torch.bfloat16, False, True), (torch.bfloat16, True, False), (torch.float32, False, False)],
)
def test_the_bias_is_added_apart_in_compiled_sampling_in_bfloat16_alone(dtype, gradients, apart):
    with torch.set_grad_enabled(gradients):
        names = operations(Linear(8, 4).to(dtype), torch.zeros(2, 3, 8, dtype=dtype))
    assert len(names) == (2 if apart else 1), names


@torch.no_grad()
def test_eager_bfloat16_takes_the_kernels_of_pytorch():
    """The same digits: the fast paths are faster only where a block is compiled."""
    q, k, v = torch.randn(3, 2, 4, 64, 16).bfloat16()
    assert torch.equal(attend(q, k, v), scaled_dot_product_attention(q, k, v))
    layer, x = Linear(64, 64).bfloat16(), torch.randn(32, 64).bfloat16()
    assert torch.equal(layer(x), linear(x, layer.weight, layer.bias))


def network_of(axes, compiled):
    """Without zeros, which would hide what they multiply, and its inputs."""
    torch.manual_seed(0)
    network = DiT(8, 3, 5, 2, 32, 2, 4, **axes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    if compiled:
        network.compile_in_place("aot_eager")
    return network, (torch.randn(4, 3, 8, 8), torch.rand(4) * 999, torch.arange(4))


def trained(axes, compiled, precision):
    """Output and gradients."""
    network, (x, time, labels) = network_of(axes, compiled)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        output = network(x, time, labels)
    output.float().square().mean().backward()
    return [output.detach(), *(parameter.grad for parameter in network.parameters())]


LIGHTNING = {"norm": "rmsnorm", "mlp": "swiglu", "position": "sincos_rope", "qk_norm": True, "num_kv_heads": 2}
AXES = {"dit": {}, "lightningdit": LIGHTNING, "cross": {"conditioning": "cross_attention"}}


def networks(quick, *others):
    """Compiling takes seconds: each way to compute is quickly tested with one network, and slowly with the others."""
    slow = [pytest.param(AXES[name], marks=pytest.mark.slow, id=name) for name in others]
    return pytest.mark.parametrize("axes", [pytest.param(AXES[quick], id=quick), *slow])


@networks("dit", "lightningdit")
def test_compiled_blocks_are_eager_ones_in_float32(axes):
    for compiled, eager in zip(*(trained(axes, way, "float32") for way in (True, False)), strict=True):
        assert relative(compiled, eager) < 1e-5


@networks("lightningdit", "dit")
def test_compiled_blocks_are_as_far_from_float32_as_eager_ones_in_bfloat16(axes):
    exact = trained(axes, False, "float32")
    compiled, eager = (trained(axes, way, "bfloat16") for way in (True, False))
    for mine, theirs, wanted in zip(compiled, eager, exact, strict=True):
        assert relative(mine, wanted) < 1.25 * relative(theirs, wanted)
    assert relative(compiled[0], exact[0]) < 0.01


@networks("cross", "lightningdit", "dit")
def test_compiled_sampling_is_as_far_from_float32_as_eager_in_bfloat16(axes):
    def sampled(compiled, dtype):
        network, (x, time, labels) = network_of(axes, compiled)
        with torch.inference_mode():
            return network.eval().to(dtype)(x.to(dtype), time, labels)

    exact = sampled(False, torch.float32)
    assert relative(sampled(True, torch.float32), exact) < 1e-5
    compiled, eager = (sampled(way, torch.bfloat16) for way in (True, False))
    assert relative(compiled, exact) < 1.25 * relative(eager, exact) < 0.05
