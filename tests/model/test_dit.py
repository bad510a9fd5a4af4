"""The network: shapes, counts, initialisation, labels, and agreement between its several ways to compute."""

import pytest
import torch
from torch import nn

from dit.model import DiT
from dit.model.attention import BACKENDS, SelfAttention, attend
from dit.model.embed import TimeEmbed, patchify, unpatchify
from dit.model.position import sincos_positions


def tiny(**changes):
    arguments = {"image_size": 8, "channels": 3, "num_classes": 5, "hidden_size": 32, "depth": 2, "num_heads": 4}
    return DiT(**{**arguments, **changes})


def awake(network, seed=0):
    """The network with random weights everywhere, so that its output is not the zero it starts with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return network


def batch(count=3, channels=3, size=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, channels, size, size, generator=generator)
    return x, torch.linspace(10, 900, count), torch.arange(count) % 5


@pytest.mark.parametrize(
    ("width", "depth", "heads", "patch", "parameters"),
    # Peebles and Xie 2023, table 4 (33, 130, 458, 675 M), counted exactly: 32x32x4 latents, 1,000 classes and null,
    # variance head, positions fixed.
    [
        (384, 12, 6, 2, 32_865_056),
        (768, 12, 12, 2, 130_315_808),
        (1024, 24, 16, 2, 457_840_672),
        (1152, 28, 16, 2, 674_834_720),
        (384, 12, 6, 4, 32_920_448),
        (1152, 28, 16, 8, 675_664_640),
    ],
)
def test_parameter_counts(width, depth, heads, patch, parameters):
    with torch.device("meta"):
        network = DiT(32, 4, 1000, patch, width, depth, heads, learn_variance=True)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 8, 2), (4, 12, 4), (6, 3, 3), (5, 7, 1)])
def test_unpatchify_inverts_patchify(height, width, patch):
    x = torch.randn(2, 3, height, width)
    tokens = patchify(x, patch)
    assert tokens.shape == (2, height * width // patch**2, 3 * patch**2)
    assert torch.equal(unpatchify(tokens, patch, height, width), x)


def test_patches_run_row_by_row():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert patchify(x, 2)[0, 1].tolist() == [2, 3, 6, 7]


def test_positions_are_distinct_and_tell_column_then_row():
    table = sincos_positions(16, 3, 5)
    assert table.shape == (15, 16)
    assert len(table.unique(dim=0)) == 15
    assert torch.equal(table[0, :8], table[5, :8])  # same column, next row
    assert torch.equal(table[0, 8:], table[1, 8:])  # same row, next column
    assert table[1, :4].tolist() == pytest.approx(torch.sin(torch.tensor([1, 0.1, 0.01, 0.001])).tolist())


def test_output_is_zero_and_blocks_are_the_identity_at_initialisation():
    network = tiny()
    x, time, labels = batch()
    assert network(x, time, labels).abs().max() == 0
    tokens, condition = torch.randn(3, 16, 32), torch.randn(3, 32)
    for block in network.blocks:
        assert torch.equal(block(tokens, condition), tokens)


def test_every_parameter_learns_by_the_third_backward():
    """adaLN-Zero opens from the end: first the last linear alone, then the gates, then all."""
    network = tiny()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, time, labels = batch()
    target, reached = torch.randn_like(x), []
    for _ in range(3):
        optimizer.zero_grad()
        (network(x, time, labels) - target).square().mean().backward()
        reached.append({n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0})
        optimizer.step()
    assert reached[0] == {"final.linear.weight", "final.linear.bias"}
    assert reached[0] < reached[1] < reached[2]
    assert reached[2] == {name for name, _ in network.named_parameters()}


def test_permuting_the_batch_permutes_the_output():
    network, (x, time, labels), order = awake(tiny()).eval(), batch(5), torch.tensor([3, 0, 4, 1, 2])
    out = network(x, time, labels)
    torch.testing.assert_close(network(x[order], time[order], labels[order]), out[order], rtol=0, atol=1e-5)
    assert (out[0] - out[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["time", "labels"])
def test_the_condition_matters(name):
    network, (x, time, labels) = awake(tiny()).eval(), batch(1)
    changed = {"time": time + 300, "labels": labels + 1}[name]
    other = network(x, changed, labels) if name == "time" else network(x, time, changed)
    assert (network(x, time, labels) - other).abs().max() > 1e-3


def test_attention_backends_agree_with_plain_arithmetic():
    q, k, v = torch.randn(3, 2, 4, 10, 8, requires_grad=True).unbind()
    for name in ("sdpa", "reference"):
        torch.testing.assert_close(attend(q, k, v, name), attend(q, k, v, "reference"), rtol=1e-5, atol=1e-6)
    one_head = (q[0, 0] @ k[0, 0].T / 8**0.5).softmax(-1) @ v[0, 0]
    torch.testing.assert_close(attend(q, k, v, "reference")[0, 0], one_head, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["flash_attn", "xformers", "sdpa"])
def test_attention_backends_agree_on_a_gpu(name):
    pytest.importorskip({"flash_attn": "flash_attn", "xformers": "xformers.ops"}.get(name, "torch"))
    q, k, v = torch.randn(3, 2, 4, 64, 32, device="cuda", dtype=torch.bfloat16).unbind()
    torch.testing.assert_close(attend(q, k, v, name), attend(q, k, v, "reference"), rtol=2e-2, atol=2e-2)


def test_whole_network_is_the_same_with_the_reference_attention():
    x, time, labels = batch()
    outs = [awake(tiny(attention=name)).eval()(x, time, labels) for name in ("sdpa", "reference")]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-4)


def gradients(network, inputs):
    network.zero_grad()
    out = network(*inputs)
    out.square().mean().backward()
    return [out.detach(), *(p.grad.clone() for p in network.parameters())]


def test_checkpointed_and_compiled_agree_with_plain_gradients_included():
    inputs = batch()
    plain = awake(tiny()).eval()
    saving = awake(tiny(activation_checkpointing=True)).eval()
    for a, b in zip(gradients(plain, inputs), gradients(saving, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    compiled = awake(tiny()).eval()
    compiled.compile(backend="aot_eager")
    for a, b in zip(gradients(plain, inputs), gradients(compiled, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_layers_equal_timm_with_the_same_weights():
    vision = pytest.importorskip("timm.models.vision_transformer")
    x = torch.randn(2, 16, 32)
    ours, theirs = SelfAttention(32, 4), vision.Attention(32, num_heads=4, qkv_bias=True)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)

    block = awake(tiny()).blocks[0]
    mlp = pytest.importorskip("timm.layers").Mlp(32, 128, act_layer=lambda: nn.GELU(approximate="tanh"))
    for mine, name in ((block.mlp[0], "fc1"), (block.mlp[2], "fc2")):
        getattr(mlp, name).load_state_dict(mine.state_dict())
    torch.testing.assert_close(block.mlp(x), mlp(x), rtol=1e-5, atol=1e-6)

    network, picture = awake(tiny()), torch.randn(2, 3, 8, 8)
    patches = pytest.importorskip("timm.layers").PatchEmbed(8, 2, 3, 32)
    # timm's convolution reads a patch channel by channel, ours pixel by pixel.
    weight = network.patch_embed.weight.detach().reshape(32, 2, 2, 3).permute(0, 3, 1, 2)
    patches.load_state_dict({"proj.weight": weight, "proj.bias": network.patch_embed.bias.detach()})
    torch.testing.assert_close(network.patch_embed(patchify(picture, 2)), patches(picture), rtol=1e-5, atol=1e-6)


def test_time_is_embedded_in_float32():
    """bfloat16 cannot tell 999 from 1000; the sinusoid must."""
    embed = awake(TimeEmbed(32)).to(torch.bfloat16)
    a, b = embed(torch.tensor([999.0, 1000.0]))
    assert (a - b).abs().max() > 0


def test_the_null_label_and_no_label_are_the_same():
    network, (x, time, labels) = awake(tiny()).eval(), batch()
    null = network(x, time, torch.full_like(labels, network.null_label))
    assert torch.equal(network(x, time, None), null)
    mixed = network(x, time, torch.where(torch.tensor([False, True, False]), network.null_label, labels))
    kept = network(x, time, labels)
    for row, expected in zip(mixed, (kept[0], null[1], kept[2]), strict=True):
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_classes", [0, 1, 2, 10, 1000])
def test_the_null_row_is_always_there(num_classes):
    shapes = {name: p.shape for name, p in tiny(num_classes=num_classes).named_parameters()}
    assert shapes["label_embed.table.weight"][0] == num_classes + 1
    x, time, _ = batch()
    assert tiny(num_classes=num_classes)(x, time, torch.full((3,), num_classes)).shape == x.shape


def test_unconditional_network_ignores_labels():
    network, (x, time, labels) = awake(tiny(num_classes=0)).train(), batch()
    assert torch.equal(network(x, time, labels), network(x, time, None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, r"model\.patch_size must divide the image size 8, got 3"),
        ({"patch_size": 0}, r"model\.patch_size must be a whole number of at least 1, got 0"),
        ({"depth": 1.5}, r"model\.depth must be a whole number of at least 1, got 1\.5"),
        ({"num_heads": 5}, r"model\.num_heads must divide hidden_size 32, got 5"),
        ({"hidden_size": 34, "num_heads": 2}, r"model\.hidden_size must be a multiple of 4 .* got 34"),
        ({"num_classes": -1}, r"model\.num_classes must be a whole number of at least 0, got -1"),
        ({"attention": "magic"}, r"model\.attention must be one of sdpa, flash_attn, xformers, reference, got 'magic'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("flash_attn", "flash_attn", "flash"), ("xformers", "xformers.ops", "xformers")]
)
def test_a_missing_kernel_is_named_with_its_install_command(name, module, extra, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ValueError, match=rf"model\.attention={name} needs the package {name}: .*ditlab\[{extra}\]"):
        tiny(attention=name)
    assert name in BACKENDS
