"""Random weights in the layout of DiT's own code and of its descendants, and their forward passes told once more.

Written from the papers on raw tensors, so that nothing of the package is compared with itself.
"""

import math

import diffusers
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch.nn.functional import conv2d, gelu, layer_norm, linear, silu

X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 4, 5])  # the last is the null label
T = torch.tensor([0.001, 0.5, 1.0])
MODERN = {"rms": True, "gated": True, "rope": True}
JIT = MODERN | {"normed": True, "channels": 3, "bottleneck": 5}


def saved(folder, contents):
    torch.save(contents, folder / "foreign.pt")
    return folder / "foreign.pt"


def weights(
    width=24, depth=2, patch=2, channels=4, side=4, classes=5, *, heads=2, doubled=False, rms=False, gated=False,
    normed=False, rope=False, tokens=0, bottleneck=0, ratio=4, seed=0, shifts=True,
):  # fmt: skip
    """Names and random tensors; `side` in tokens."""
    generator = torch.Generator().manual_seed(seed)
    out = {}

    def rand(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator) * scale

    def layer(name, rows, *columns, bias=True):
        out[f"{name}.weight"] = rand(rows, *columns, scale=math.prod(columns) ** -0.5)
        if bias:
            out[f"{name}.bias"] = rand(rows, scale=0.3)

    if bottleneck:
        layer("x_embedder.proj1", bottleneck, channels, patch, patch, bias=False)
        layer("x_embedder.proj2", width, bottleneck, 1, 1)
    else:
        layer("x_embedder.proj", width, channels, patch, patch)
    out["pos_embed"] = get_2d_sincos_pos_embed(width, side, base_size=side, output_type="pt").float()[None]
    layer("t_embedder.mlp.0", width, 256)
    layer("t_embedder.mlp.2", width, width)
    out["y_embedder.embedding_table.weight"] = rand(classes + 1, width)
    if tokens:
        out["in_context_posemb"] = rand(1, tokens, width)
    if rope:
        angle = angles(side, width // heads)
        out["feat_rope.freqs_cos"], out["feat_rope.freqs_sin"] = (
            f(angle).repeat_interleave(2, 1).float() for f in (torch.cos, torch.sin)
        )
    inner = int(width * ratio) * 2 // 3 if gated else int(width * ratio)
    for n in range(depth):
        block = f"blocks.{n}"
        if rms:
            out[f"{block}.norm1.weight"], out[f"{block}.norm2.weight"] = 1 + rand(2, width, scale=0.3)
        layer(f"{block}.attn.qkv", 3 * width, width)
        layer(f"{block}.attn.proj", width, width)
        if normed:
            for name in ("q_norm", "k_norm"):
                out[f"{block}.attn.{name}.weight"] = 1 + rand(width // heads, scale=0.3)
                if not rms:
                    out[f"{block}.attn.{name}.bias"] = rand(width // heads, scale=0.3)
        if gated:
            layer(f"{block}.mlp.w12", 2 * inner, width)
            layer(f"{block}.mlp.w3", width, inner)
        else:
            layer(f"{block}.mlp.fc1", inner, width)
            layer(f"{block}.mlp.fc2", width, inner)
        layer(f"{block}.adaLN_modulation.1", (6 if shifts else 4) * width, width)
    if rms:
        out["final_layer.norm_final.weight"] = 1 + rand(width, scale=0.3)
    layer("final_layer.linear", patch * patch * channels * (1 + doubled), width)
    layer("final_layer.adaLN_modulation.1", 2 * width, width)
    return out


def angles(side, head_dim):
    """[side side, head_dim / 2]: pairs of the first half of a head's channels turn with the row, others with the
    column."""
    frequencies = 10_000.0 ** -(torch.arange(0, head_dim // 2, 2, dtype=torch.float64) / (head_dim // 2))
    place = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([place.repeat_interleave(side, 0), place.repeat(side, 1)], dim=1)


def forward(w, x, time, labels, *, heads=2, rope=False, tokens_from=0):
    """x [B, C, H, W], time [B] as the reference network is told it, labels [B]."""
    if "x_embedder.proj1.weight" in w:
        patch = w["x_embedder.proj1.weight"].shape[-1]
        x = conv2d(x, w["x_embedder.proj1.weight"], stride=patch)
        x = conv2d(x, w["x_embedder.proj2.weight"], w["x_embedder.proj2.bias"])
    else:
        patch = w["x_embedder.proj.weight"].shape[-1]
        x = conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=patch)
    batch, width, side, _ = x.shape
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"]

    def apply(name, v):
        return linear(v, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, v):
        if f"{name}.bias" in w:
            return layer_norm(v, v.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)  # PyTorch's default
        if f"{name}.weight" in w:
            return v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]
        return layer_norm(v, v.shape[-1:], eps=1e-6)

    wave = time[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    time = apply("t_embedder.mlp.2", silu(apply("t_embedder.mlp.0", torch.cat([wave.cos(), wave.sin()], 1))))
    label = w["y_embedder.embedding_table.weight"][labels]
    c, head_dim, before = silu(time + label)[:, None], width // heads, 0

    def turned(v):  # [B, H, M + N, D]: neighbours are the two parts of a complex number
        if not rope:
            return v
        still, v = v[:, :, :before], v[:, :, before:]
        turn = torch.polar(torch.ones(()).double(), angles(side, head_dim)).to(torch.complex64)
        v = torch.view_as_real(torch.view_as_complex(v.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
        return torch.cat([still, v], 2)

    depth = sum(name.endswith("attn.qkv.weight") for name in w)
    for n in range(depth):
        block = f"blocks.{n}"
        if "in_context_posemb" in w and n == tokens_from:
            before = w["in_context_posemb"].shape[1]
            x = torch.cat([label[:, None] + w["in_context_posemb"], x], 1)
        modulation = apply(f"{block}.adaLN_modulation.1", c).split(width, -1)
        shift1, shift2 = (modulation[0], modulation[3]) if len(modulation) == 6 else (0, 0)
        scale1, gate1, scale2, gate2 = modulation[-5:-3] + modulation[-2:] if len(modulation) == 6 else modulation
        h = norm(f"{block}.norm1", x) * (1 + scale1) + shift1
        q, k, v = apply(f"{block}.attn.qkv", h).reshape(batch, -1, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        if f"{block}.attn.q_norm.weight" in w:
            q, k = norm(f"{block}.attn.q_norm", q), norm(f"{block}.attn.k_norm", k)
        mixed = (turned(q) @ turned(k).transpose(-1, -2) / head_dim**0.5).softmax(-1) @ v
        x = x + gate1 * apply(f"{block}.attn.proj", mixed.transpose(1, 2).reshape(batch, -1, width))
        h = norm(f"{block}.norm2", x) * (1 + scale2) + shift2
        if f"{block}.mlp.w12.weight" in w:
            a, b = apply(f"{block}.mlp.w12", h).chunk(2, -1)
            h = apply(f"{block}.mlp.w3", silu(a) * b)
        else:
            h = apply(f"{block}.mlp.fc2", gelu(apply(f"{block}.mlp.fc1", h), approximate="tanh"))
        x = x + gate2 * h
    shift, scale = apply("final_layer.adaLN_modulation.1", c).chunk(2, -1)
    x = apply("final_layer.linear", norm("final_layer.norm_final", x[:, before:]) * (1 + scale) + shift)
    x = x.reshape(batch, side, side, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(batch, -1, side * patch, side * patch)


def as_diffusers(w):
    """DiT's names as those of DiTTransformer2DModel."""
    names = {"x_embedder.proj": "pos_embed.proj", "final_layer.adaLN_modulation.1": "proj_out_1"}
    names |= {"final_layer.linear": "proj_out_2"}
    out = {
        f"{names[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v
        for k, v in w.items()
        if k.rpartition(".")[0] in names
    }
    depth = sum(name.endswith("attn.qkv.weight") for name in w)
    for n in range(depth):
        there = f"transformer_blocks.{n}"
        for kind in ("weight", "bias"):
            for part, tensor in zip("qkv", w[f"blocks.{n}.attn.qkv.{kind}"].chunk(3), strict=True):
                out[f"{there}.attn1.to_{part}.{kind}"] = tensor
            for theirs, ours in (
                ("attn1.to_out.0", "attn.proj"),
                ("ff.net.0.proj", "mlp.fc1"),
                ("ff.net.2", "mlp.fc2"),
                ("norm1.linear", "adaLN_modulation.1"),
            ):
                out[f"{there}.{theirs}.{kind}"] = w[f"blocks.{n}.{ours}.{kind}"]
            for number, layer in ((1, 0), (2, 2)):
                out[f"{there}.norm1.emb.timestep_embedder.linear_{number}.{kind}"] = w[f"t_embedder.mlp.{layer}.{kind}"]
        out[f"{there}.norm1.emb.class_embedder.embedding_table.weight"] = w["y_embedder.embedding_table.weight"]
    return out


def their_transformer(w=None, *, original, norm_eps=1e-6, heads=2, width=24, depth=2, **sizes):
    """diffusers' network with the weights `w`, or random ones; `original` undoes what it does unlike DiT's own code."""
    sizes = {"in_channels": 4, "out_channels": 8, "sample_size": 8, "num_embeds_ada_norm": 5} | sizes
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=width // heads, num_layers=depth, norm_eps=norm_eps, **sizes
    ).eval()
    if w is None:
        w = as_diffusers(weights(width, depth, classes=sizes["num_embeds_ada_norm"], doubled=True, heads=heads))
    model.load_state_dict(w)
    for block in model.transformer_blocks if original else ():
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return model


W = weights()
