"""The axes of the family: each does what its paper says, alone and together with the others."""

import io
import sys
from contextlib import redirect_stdout
from functools import cache, partial
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data import Digits
from dit.diffusion import Denoiser, LinearFlow, Uniform
from dit.model import DiT
from dit.model.__main__ import main, presets
from dit.model.attention import BACKENDS, SelfAttention, attend
from dit.model.block import CrossAttentionBlock, ModulatedBlock, PlainBlock
from dit.model.conditioning import CONDITIONINGS
from dit.model.count import count
from dit.model.mlp import MLPS, SwiGLU
from dit.model.norm import NORMS
from dit.model.position import POSITIONS, AxialRotary, rotate, unrotated_before
from dit.objectives import MSE
from tests.model.test_dit import awake, batch, gradients, tiny

# The first value of each is the default. `attention` holds what is installed here.
AXES = {
    "conditioning": list(CONDITIONINGS),
    "norm": list(NORMS),
    "mlp": list(MLPS),
    "position": ["sincos", *(name for name in POSITIONS if name != "sincos")],
    "qk_norm": [False, True],
    "num_kv_heads": [None, 2, 1],
    "class_tokens": [0, 3],
    "class_tokens_from": [0, 1],
    "bottleneck": [0, 5],
    "attention": ["sdpa", "reference"],
}
ALONE = [{axis: value} for axis, values in AXES.items() for value in values[1:]]


def pairs(row):
    return set(combinations([(axis, row[axis]) for axis in AXES], 2))


ALL_PAIRS = [((a, x), (b, y)) for a, b in combinations(AXES, 2) for x, y in product(AXES[a], AXES[b])]


def gain(row, met):
    """How many pairs a row, perhaps of some axes only, would add."""
    return sum(pair not in met for pair in combinations([(axis, row[axis]) for axis in AXES if axis in row], 2))


def pairwise():
    """Combinations in which every value of every axis meets every value of every other, chosen greedily."""
    rows, met = [], set()
    for pair in ALL_PAIRS:
        if pair not in met:
            row = dict(pair)
            for axis in [axis for axis in AXES if axis not in row]:
                row = max(({**row, axis: value} for value in AXES[axis]), key=partial(gain, met=met))
            met |= pairs(row)
            rows.append(row)
    return rows


PAIRWISE = pairwise()


def named(changes):
    return "-".join(f"{key}={value}" for key, value in changes.items() if value != AXES.get(key, [2])[0]) or "default"


def test_pairwise_rows_cover_every_pair():
    assert set().union(*map(pairs, PAIRWISE)) == set(ALL_PAIRS)
    assert len(PAIRWISE) < 60


@pytest.fixture(scope="module")
def pictures():
    data = Digits(image_size=8, channels=1, num_classes=10, batch_size=16)
    data.setup()
    x0, labels = data.train.tensors(64)
    return data.codec.encode(x0), labels


@pytest.mark.parametrize("changes", [{}, *ALONE], ids=named)
def test_every_axis_learns_digits_in_15_steps(changes, pictures):
    """The loss on fixed pictures, noise and times falls by a third; an untrained network predicts 0. Measured: to 0.50
    to 0.63."""
    torch.manual_seed(0)
    sizes = {"image_size": 8, "channels": 1, "num_classes": 10, "hidden_size": 32, "depth": 2, "num_heads": 4}
    network = DiT(**{**sizes, **changes})
    path, loss, (x0, labels) = LinearFlow(), MSE("velocity"), pictures
    denoiser = Denoiser(network, path, "velocity", network.null_label)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)

    def losses(seed):
        generator = torch.Generator().manual_seed(seed)
        t = Uniform().sample(len(x0), path, generator=generator)
        eps = torch.randn(x0.shape, generator=generator)
        return loss(denoiser(path.interpolate(x0, eps, t), t, labels), x0, eps).mean()

    with torch.no_grad():
        before = float(losses(99))
    for step in range(15):
        optimizer.zero_grad()
        losses(step).backward()
        optimizer.step()
    with torch.no_grad():
        after = float(losses(99))
    assert after < 0.67 * before


def variant(changes):
    """Random weights everywhere, so that no gate is closed; small enough that no softmax is a step."""
    return awake(tiny(**changes)).eval()


@pytest.mark.parametrize("changes", [{}, *ALONE, *PAIRWISE], ids=named)
def test_checkpointing_equals_plain_gradients_included(changes):
    inputs = batch()
    plain = gradients(variant(changes), inputs)
    assert all(gradient.abs().max() > 0 for gradient in plain)  # whatever the axes beside it, each weight is reached
    saving = gradients(variant({**changes, "activation_checkpointing": True}), inputs)
    for a, b in zip(plain, saving, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# Compiling takes seconds: three networks have what changes the graph most, and every axis but the default's once.
COMPILED = [
    {
        "conditioning": "adaln_single",
        "norm": "rmsnorm",
        "mlp": "swiglu",
        "position": "sincos_rope",
        "qk_norm": True,
        "num_kv_heads": 2,
        "class_tokens": 3,
        "class_tokens_from": 1,
        "bottleneck": 5,
    },
    {"conditioning": "cross_attention", "position": "learned", "attention": "reference", "depth": 1},
    {"conditioning": "in_context", "position": "rope", "num_kv_heads": 1, "class_tokens": 3, "depth": 1},
]


def test_each_axis_is_compiled():
    assert all(any(row.get(axis, AXES[axis][0]) != AXES[axis][0] for row in COMPILED) for axis in AXES)


@pytest.mark.parametrize(
    "changes", [*COMPILED, *(pytest.param(row, marks=pytest.mark.slow) for row in [{}, *ALONE, *PAIRWISE])], ids=named
)
def test_compiled_equals_eager_gradients_included(changes):
    inputs = batch()
    eager = gradients(variant(changes), inputs)
    network = variant(changes)
    network.compile(backend="aot_eager", fullgraph=True)
    for a, b in zip(eager, gradients(network, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, *PAIRWISE[::10]], ids=named)
def test_compiled_by_inductor_equals_eager_gradients_included(changes):
    inputs = batch()
    eager = gradients(variant(changes), inputs)
    network = variant(changes)
    network.compile()
    for a, b in zip(eager, gradients(network, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_axes_at_their_defaults_are_the_network_without_them():
    torch.manual_seed(0)
    absent = tiny()
    torch.manual_seed(0)
    explicit = tiny(**{axis: values[0] for axis, values in AXES.items()})
    assert absent.state_dict().keys() == explicit.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(absent.parameters(), explicit.parameters(), strict=True))
    assert torch.equal(awake(absent).eval()(*batch()), awake(explicit).eval()(*batch()))
    assert {type(block) for block in absent.blocks} == {ModulatedBlock}


@pytest.mark.parametrize(
    "changes", [c for c in ALONE if not c.keys() & {"attention", "class_tokens_from"}], ids=named
)  # a kernel, and the place of tokens that are not there
def test_every_axis_changes_what_is_computed(changes):
    assert not torch.equal(variant(changes)(*batch()), variant({})(*batch()))


@pytest.mark.parametrize("changes", [{"conditioning": name} for name in CONDITIONINGS], ids=named)
def test_every_parameter_learns_by_the_third_backward(changes):
    network = tiny(**changes, class_tokens=2, position="learned", qk_norm=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, time, labels = batch()
    target = torch.randn_like(x)
    for _ in range(3):
        optimizer.zero_grad()
        (network(x, time, labels) - target).square().mean().backward()
        reached = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    assert reached == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_time_and_label_reach_the_output(name):
    network, (x, time, labels) = variant({"conditioning": name}), batch(1)
    plain = network(x, time, labels)
    assert (network(x, time + 300, labels) - plain).abs().max() > 1e-4
    assert (network(x, time, labels + 1) - plain).abs().max() > 1e-4


def test_blocks_of_the_conditionings_are_those_of_the_paper():
    kinds = {name: type(tiny(conditioning=name).blocks[0]) for name in CONDITIONINGS}
    assert kinds == {
        "adaln_zero": ModulatedBlock,
        "adaln": ModulatedBlock,
        "adaln_single": ModulatedBlock,
        "in_context": PlainBlock,
        "cross_attention": CrossAttentionBlock,
    }
    tokens, condition = torch.randn(3, 16, 32), torch.randn(3, 32)
    single = tiny(conditioning="adaln_single")
    shared = single.conditioning(condition, torch.zeros(3, 32)).block
    assert torch.equal(single.blocks[0](tokens, shared), tokens)  # closed gates
    plain = tiny(conditioning="adaln").blocks[0]
    x = tokens + plain.attention(nn.functional.layer_norm(tokens, (32,), eps=1e-6))
    x = x + plain.mlp(nn.functional.layer_norm(x, (32,), eps=1e-6))
    torch.testing.assert_close(plain(tokens, condition), x)  # at the start a block of a ViT


def test_a_learned_offset_in_one_block_leaves_the_others():
    network = tiny(conditioning="adaln_single")
    with torch.no_grad():
        network.blocks[1].modulation.table[2] = 1.0  # open the gate of attention
    tokens, condition = torch.randn(3, 16, 32), torch.randn(3, 32)
    shared = network.conditioning(condition, torch.zeros(3, 32)).block
    assert torch.equal(network.blocks[0](tokens, shared), tokens)
    block = network.blocks[1]
    torch.testing.assert_close(block(tokens, shared), tokens + block.attention(block.norm1(tokens)))


def test_without_positions_the_patches_are_a_set_and_with_them_they_are_not():
    x, time, labels = batch()
    swapped = torch.cat([x[..., 4:], x[..., :4]], dim=3)  # left and right half, whole patches
    for name in POSITIONS:
        out, other = (variant({"position": name})(picture, time, labels) for picture in (x, swapped))
        back = torch.cat([other[..., 4:], other[..., :4]], dim=3)
        assert ((back - out).abs().max() < 1e-4) == (name == "none"), name


def test_rotated_products_depend_on_the_distance_alone():
    """q at (r, c) and k at (r + 1, c + 2): the same product wherever they are, another at another distance."""
    rotary, q, k = AxialRotary(16, 6), torch.randn(16), torch.randn(16)
    turned_q, turned_k = (rotate(x.expand(1, 1, 36, 16), rotary())[0, 0].reshape(6, 6, 16) for x in (q, k))
    products = (turned_q[:5, :4] * turned_k[1:, 2:]).sum(-1)
    torch.testing.assert_close(products, products[0, 0].expand(5, 4), rtol=1e-4, atol=1e-4)
    for elsewhere in ((turned_q[:5, :4] * turned_k[1:, 1:5]), (turned_q[:4, :4] * turned_k[2:, 2:])):
        assert (elsewhere.sum(-1)[:4, :4] - products[:4]).abs().max() > 1e-2
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(6, 6))


def test_rotation_turns_neighbouring_channels_by_row_then_column():
    cos, sin = AxialRotary(8, 3)()
    angle = torch.atan2(sin, cos)[:, ::2]  # [9, 4]: two frequencies of the row, two of the column
    row, column = torch.arange(9) // 3, torch.arange(9) % 3
    torch.testing.assert_close(angle, torch.stack([row, row * 0.01, column, column * 0.01], dim=1).float())
    one = torch.zeros(1, 1, 9, 8)
    one[..., 0] = 1
    turned = rotate(one, (cos, sin))[0, 0]
    torch.testing.assert_close(turned[:, :2], torch.stack([row.cos(), row.sin()], dim=1))
    assert turned[:, 2:].abs().max() == 0


def test_tokens_before_the_picture_are_not_rotated():
    rotation = unrotated_before(AxialRotary(8, 3)(), 2)
    x = torch.randn(1, 1, 11, 8)
    assert torch.equal(rotate(x, rotation)[:, :, :2], x[:, :, :2])
    assert torch.equal(rotate(x, rotation)[:, :, 2:], rotate(x[:, :, 2:], AxialRotary(8, 3)()))


def test_attention_rotates_queries_and_keys_and_nothing_else():
    attention, rotation = awake(SelfAttention(32, 4)), AxialRotary(8, 3)()
    x = torch.randn(2, 9, 32)
    q, k, v = attention.qkv(x).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)  # [2, 4, 9, 8] each
    mixed = attend(rotate(q, rotation), rotate(k, rotation), v, "reference")
    expected = attention.proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, rotation), expected, rtol=1e-5, atol=1e-5)
    assert (attention(x) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_shared_keys_are_full_attention_with_repeated_weights(kv_heads):
    """Query heads 0, 1 use key head 0, and so on."""
    few, full = awake(SelfAttention(32, 4, num_kv_heads=kv_heads)), awake(SelfAttention(32, 4))
    with torch.no_grad():
        for name in ("weight", "bias"):
            q, k, v = getattr(few.qkv, name).split([32, 8 * kv_heads, 8 * kv_heads])
            k, v = (
                part.unflatten(0, (kv_heads, 8)).repeat_interleave(4 // kv_heads, 0).flatten(0, 1) for part in (k, v)
            )
            getattr(full.qkv, name).copy_(torch.cat([q, k, v]))
    full.proj.load_state_dict(few.proj.state_dict())
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(few(x), full(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("name", [name for name in BACKENDS if name in ("sdpa", "reference")])
def test_kernels_agree_with_the_explicit_softmax_gradients_included(name, kv_heads):
    results = []
    for backend in (name, "explicit"):
        torch.manual_seed(0)
        q = torch.randn(2, 4, 10, 8, requires_grad=True)
        k, v = (torch.randn(2, kv_heads, 7, 8, requires_grad=True) for _ in range(2))
        if backend == "explicit":
            keys, values = (part.repeat_interleave(4 // kv_heads, 1) for part in (k, v))
            out = (q @ keys.mT / 8**0.5).softmax(-1) @ values
        else:
            out = attend(q, k, v, backend)
        out.square().sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_flash_attn_is_given_one_half_precision_or_refused(monkeypatch):
    """Norms of queries and keys return float32 under autocast; the kernel does not take that beside bfloat16."""
    seen = []

    def kernel(q, k, v):
        seen.append({q.dtype, k.dtype, v.dtype})
        return v

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_func=kernel))
    q, k, v = torch.randn(3, 1, 2, 4, 8)
    attend(q, k, v.bfloat16(), "flash_attn")
    assert seen == [{torch.bfloat16}]
    with pytest.raises(ValueError, match=r"model\.attention=flash_attn computes in half precision: set trainer\.prec"):
        attend(q, k, v, "flash_attn")


@pytest.mark.gpu
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", ["flash_attn", "xformers", "sdpa"])
def test_kernels_agree_with_the_reference_on_a_gpu_gradients_included(name, kv_heads):
    pytest.importorskip({"flash_attn": "flash_attn", "xformers": "xformers.ops"}.get(name, "torch"))
    results = []
    for backend in (name, "reference"):
        torch.manual_seed(0)
        q = torch.randn(2, 4, 64, 32, device="cuda", dtype=torch.bfloat16).requires_grad_()
        k, v = (torch.randn(2, kv_heads, 64, 32, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in "kv")
        out = attend(q, k, v, backend)
        out.float().square().sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-2)


def test_the_reference_kernel_computes_in_float32():
    q, k, v = (10 * torch.randn(3, 1, 2, 16, 8, dtype=torch.bfloat16)).unbind()
    out = attend(q, k, v, "reference")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, attend(q.float(), k.float(), v.float(), "reference").bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_normalised_queries_and_keys_do_not_grow_with_their_weights(norm):
    attention = awake(SelfAttention(32, 4, qk_norm=norm))
    x = torch.randn(2, 5, 32)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[:64] *= 50
        attention.qkv.bias[:64] *= 50
    torch.testing.assert_close(attention(x), before, rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for n, p in attention.named_parameters() if "norm" in n) == (32 if norm == "layernorm" else 16)


def test_swiglu_is_its_formula_and_as_large_as_gelu():
    mlp = awake(SwiGLU(32, 96))
    x = torch.randn(4, 32)
    a, b = (x @ mlp.enter.weight.T + mlp.enter.bias).split(64, dim=1)
    torch.testing.assert_close(mlp(x), (a * a.sigmoid() * b) @ mlp.leave.weight.T + mlp.leave.bias)
    sizes = {name: sum(p.numel() for p in make(768, 3072).parameters()) for name, make in MLPS.items()}
    assert sizes["swiglu"] == pytest.approx(sizes["gelu"], rel=1e-3)


def test_norms_have_weights_where_nothing_else_scales():
    """LayerNorm only where no condition modulates it, RMSNorm always, as in the papers."""

    def weights(**changes):
        return {n for n, _ in tiny(depth=1, **changes).named_parameters() if ".norm" in n}

    assert weights() == set()
    assert weights(norm="rmsnorm") == {"blocks.0.norm1.weight", "blocks.0.norm2.weight", "final.norm.weight"}
    assert "blocks.0.norm1.weight" in weights(conditioning="in_context")
    x = torch.randn(2, 5, 32)
    network = tiny(norm="rmsnorm")
    torch.testing.assert_close(network.final.norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())


def test_class_tokens_stand_before_the_picture_from_their_block_on():
    network = variant({"class_tokens": 3, "class_tokens_from": 1})
    seen = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, time, labels = batch()
    network(x, time, labels)
    assert [tokens.shape[1] for tokens in seen] == [16, 19]
    label = network.label_embed(labels, 3)
    torch.testing.assert_close(seen[1][:, :3], label[:, None] + network.class_tokens.positions)
    inside = tiny(conditioning="in_context", class_tokens=3, class_tokens_from=1)
    assert inside(x, time, labels).shape == x.shape


def test_a_bottleneck_is_two_linears_without_nonlinearity():
    network = tiny(bottleneck=5)
    narrow, wide = network.patch_embed
    assert (narrow.weight.shape, narrow.bias) == ((5, 12), None)
    assert wide.weight.shape == (32, 5)


GFLOPS = {  # Peebles and Xie 2023, tables 1 and 4: multiply-adds of one forward pass, 32 x 32 x 4
    ("dit_s", 2): 6.06, ("dit_b", 2): 23.01, ("dit_l", 2): 80.71, ("dit_xl", 2): 118.64,
    ("dit_s", 4): 1.41, ("dit_b", 4): 5.56, ("dit_l", 4): 19.70, ("dit_xl", 4): 29.05,
    ("dit_s", 8): 0.36, ("dit_b", 8): 1.42, ("dit_l", 8): 5.01, ("dit_xl", 8): 7.39,
}  # fmt: skip


@cache
def counted(name, **changes):
    return count({"name": "dit"} | presets()[name] | changes)


# Each size and each patch in the quick tests; the others say nothing new of the code.
LONG = pytest.mark.slow
QUICK = {("dit_s", 2), ("dit_s", 4), ("dit_s", 8), ("dit_b", 4), ("dit_l", 8), ("dit_xl", 2)}


@pytest.mark.parametrize(
    ("name", "patch_size"), [pytest.param(*each, marks=[] if each in QUICK else LONG) for each in GFLOPS]
)
def test_gflops_of_dit_are_those_of_the_paper(name, patch_size):
    _, gflops = counted(name, patch_size=patch_size, learn_variance=True, conditioning="adaln_zero")
    assert gflops == pytest.approx(GFLOPS[name, patch_size], abs=0.03)


@pytest.mark.parametrize(
    ("conditioning", "expected"),
    [("in_context", 119.4), ("cross_attention", 137.6), ("adaln", 118.6), ("adaln_zero", 118.6)],
)
def test_gflops_of_the_conditionings_are_those_of_the_paper(conditioning, expected):
    """Peebles and Xie 2023, section 5, of DiT-XL/2."""
    _, gflops = counted("dit_xl", patch_size=2, learn_variance=True, conditioning=conditioning)
    assert gflops == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("name", "millions", "gflops"),
    # Yao et al. 2025 (LightningDiT-XL: 675 M) and Li and He 2025, table 9 (131, 459, 953 M; 25, 88, 182).
    [
        ("dit_s", 33, 6.1), ("dit_b", 130, 23.0), ("dit_l", 458, 80.7), ("dit_xl", 675, 118.6),
        ("sit_s", 33, 6.1), ("sit_b", 130, 23.0), ("sit_l", 458, 80.7), ("sit_xl", 675, 118.6),
        ("lightningdit_xl", 675, 118.6), ("jit_b", 131, 25.2), ("jit_l", 459, 87.9), ("jit_h", 953, 182.0),
    ],
)  # fmt: skip
def test_presets_are_as_large_as_published(table, name, millions, gflops):
    (row,) = (line.split() for line in table if line.split()[0] == name)
    *_, found, unit, counted = row
    assert unit == "M"
    assert float(found) == pytest.approx(millions, abs=0.55)  # rounded there to a million, here to a tenth
    assert float(counted) == pytest.approx(gflops, abs=0.06)


def test_adaln_single_has_a_third_fewer_weights():
    sizes = [
        counted("dit_xl", patch_size=2, learn_variance=True, conditioning=name)[0]
        for name in ("adaln_single", "adaln_zero")
    ]
    assert sizes[0] / sizes[1] == pytest.approx(2 / 3, abs=0.02)


@pytest.fixture(scope="module")
def table():
    """The lines of `python -m dit.model`: every preset counted once."""
    said = io.StringIO()
    with redirect_stdout(said):
        main([])
    return said.getvalue().splitlines()


def test_the_table_lists_every_preset(table):
    lines = table
    assert [line.split()[0] for line in lines[1:]] == list(presets())
    assert "\n".join(lines) in (Path(__file__).parents[2] / "docs" / "model.md").read_text()
    assert any(
        line.split() == ["dit_xl", "32", "x", "32", "x", "4", "2", "256", "674.8", "M", "118.62"] for line in lines
    )
    with pytest.raises(SystemExit, match=r"dit_digits: model\.patch_size must divide the image size 8, got 3"):
        main(["--patch-size", "3"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioning": "film"}, r"model\.conditioning must be one of adaln_zero, adaln, .* got 'film'"),
        ({"norm": "batchnorm"}, r"model\.norm must be one of layernorm, rmsnorm, got 'batchnorm'"),
        ({"mlp": "relu"}, r"model\.mlp must be one of gelu, swiglu, got 'relu'"),
        ({"position": "alibi"}, r"model\.position must be one of none, sincos, .* got 'alibi'"),
        ({"num_kv_heads": 3}, r"model\.num_kv_heads must divide num_heads 4, got 3"),
        ({"num_kv_heads": 0}, r"model\.num_kv_heads must be a whole number of at least 1, got 0"),
        ({"position": "rope", "hidden_size": 24}, r"hidden_size / num_heads must be a multiple of 4 .* got 6"),
        ({"class_tokens_from": 2}, r"model\.class_tokens_from must be a block, 0 to 1, got 2"),
        ({"mlp_ratio": 0}, r"model\.mlp_ratio must be a positive number, got 0"),
        ({"mlp_ratio": float("inf")}, r"model\.mlp_ratio must be a positive number, got inf"),
        ({"mlp_ratio": 0.001}, r"model\.mlp_ratio must be a positive number, got 0\.001"),
        ({"qk_norm": "layernorm"}, r"model\.qk_norm must be true or false, got 'layernorm'"),
        ({"learn_variance": "no"}, r"model\.learn_variance must be true or false, got 'no'"),
        ({"bottleneck": -1}, r"model\.bottleneck must be a whole number of at least 0, got -1"),
    ],
)
def test_axes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_a_picture_of_another_shape_is_refused():
    """4 x 16 has as many tokens as 8 x 8; their positions would be wrong."""
    x, time, labels = batch()
    with pytest.raises(ValueError, match="this network takes pictures of 3 x 8 x 8, got 3 x 4 x 16"):
        tiny()(x.reshape(3, 3, 4, 16), time, labels)


def test_learned_positions_need_no_multiple_of_four():
    assert tiny(hidden_size=6, num_heads=2, position="learned")(*batch()).shape == (3, 3, 8, 8)
