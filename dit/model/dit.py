"""DiT: the whole network, built, initialised and run in reading order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dit.model.attention import CrossAttention, SelfAttention
from dit.model.block import FinalLayer, Modulation, Parts
from dit.model.compiling import GRAPHS, compile_options
from dit.model.conditioning import CONDITIONINGS, ClassTokens
from dit.model.embed import BottleneckEmbed, LabelEmbed, TimeEmbed, patchify, unpatchify
from dit.model.mlp import MLPS
from dit.model.network import Condition, Network, Output, register
from dit.model.norm import NORMS, make_norm
from dit.model.position import POSITIONS, AddedPosition, AxialRotary, unrotated_before

_MOST_TOKENS = 1 << 18
NONE: Mapping[str, Tensor] = {}


@register("dit")
class DiT(Network):
    """Class-conditional diffusion transformer (Peebles and Xie 2023), and what its family changed, one axis a change.

    image_size: pixels (or latents) a side. channels: of the picture. patch_size: pixels a side of a token.
    hidden_size: width W of the tokens. num_classes: real classes, of which the table of labels has a row each
    and one more for "no class"; 0 is an unconditional model. learn_variance: output 2C channels, the second half for a
    learned variance.

    The axes: conditioning, norm, mlp and position are names, listed in the file of that name; `mlp_ratio` is the MLP's
    inner width over W, of which SwiGLU takes two thirds. qk_norm: normalise queries and keys. num_kv_heads: fewer than
    num_heads for grouped-query, 1 for multi-query attention. class_tokens: so many tokens that carry the label stand
    before the picture's from block `class_tokens_from` on. bottleneck: width of a narrow layer in the patch embedding,
    0 for none. augment_dim: so many numbers tell how a picture was augmented, 0 for none (Karras et al. 2022, EDM,
    appendix F.2). time_endpoint, mlp_norm_eps: where diffusers' DiT differs from the original; see `TimeEmbed`.
    qk_norm_eps: epsilon of the norms of queries and keys; 1e-5 where others use PyTorch's LayerNorm as it comes.

    attention: a kernel of `attention.py`. activation_checkpointing: recompute every n-th block in the backward pass,
    trading time for memory: 1 for every block, 0 for none. Neither is part of `spec`, from which a checkpoint rebuilds
    the network.

    Raises ValueError where these do not fit together.
    """

    RUN_ARGUMENTS = ("attention", "activation_checkpointing")
    LABEL_TABLE = "label_embed.table.weight"

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        patch_size: int = 2,
        hidden_size: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        learn_variance: bool = False,
        conditioning: str = "adaln_zero",
        norm: str = "layernorm",
        mlp: str = "gelu",
        position: str = "sincos",
        qk_norm: bool = False,
        num_kv_heads: int | None = None,
        class_tokens: int = 0,
        class_tokens_from: int = 0,
        bottleneck: int = 0,
        augment_dim: int = 0,
        time_endpoint: bool = False,
        mlp_norm_eps: float = 1e-6,
        qk_norm_eps: float = 1e-6,
        attention: str = "sdpa",
        activation_checkpointing: int = 0,
    ):
        super().__init__()
        _check(**self.arguments)
        if not isinstance(activation_checkpointing, int) or activation_checkpointing < 0:
            raise ValueError(
                f"model.activation_checkpointing must be 0, or n for every n-th block, got {activation_checkpointing!r}"
            )
        self.sample_shape = (channels, image_size, image_size)
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
        self.patch_size, self.class_tokens_from, self.augment_dim = patch_size, class_tokens_from, augment_dim
        self.activation_checkpointing = activation_checkpointing

        side, head_dim = image_size // patch_size, hidden_size // num_heads
        self.num_tokens = side * side
        values, out_channels = patch_size**2 * channels, 2 * channels if learn_variance else channels
        added, rotary = POSITIONS[position]
        parts = Parts(
            hidden_size=hidden_size,
            norm=partial(make_norm, norm, hidden_size),
            mlp_norm=partial(make_norm, norm, hidden_size, eps=mlp_norm_eps),
            attention=partial(
                SelfAttention,
                hidden_size,
                num_heads,
                attention,
                num_kv_heads,
                qk_norm=norm if qk_norm else None,
                qk_norm_eps=qk_norm_eps,
            ),
            cross_attention=partial(CrossAttention, hidden_size, num_heads, attention),
            mlp=partial(MLPS[mlp], hidden_size, int(hidden_size * mlp_ratio)),
        )
        self.patch_embed = (
            BottleneckEmbed(values, bottleneck, hidden_size) if bottleneck else nn.Linear(values, hidden_size)
        )
        self.position = AddedPosition(hidden_size, side, learned=added == "learned") if added else None
        self.rotary = AxialRotary(head_dim, side) if rotary else None
        self.time_embed = TimeEmbed(hidden_size, endpoint=time_endpoint)
        # Without bias: the condition of a picture that was not augmented is zero and adds nothing.
        self.augment_embed = nn.Linear(augment_dim, hidden_size, bias=False) if augment_dim else None
        self.label_embed = LabelEmbed(num_classes, hidden_size)
        self.class_tokens = ClassTokens(hidden_size, class_tokens) if class_tokens else None
        self.conditioning = CONDITIONINGS[conditioning](hidden_size)
        self.blocks = nn.ModuleList(self.conditioning.block(parts) for _ in range(depth))
        self.final = FinalLayer(parts, patch_size**2 * out_channels, modulated=self.conditioning.modulates)
        self.initialise()

    def initialise(self) -> None:
        """Every weight, in reading order (Peebles and Xie 2023, section 3.2 and their released models)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.label_embed.table.weight, std=0.02)
        for layer in (self.time_embed.enter, self.time_embed.leave):
            nn.init.normal_(layer.weight, std=0.02)
        if self.augment_embed is not None:
            nn.init.normal_(self.augment_embed.weight, std=0.02)
        if self.class_tokens is not None:
            nn.init.normal_(self.class_tokens.positions, std=0.02)
        if self.position is not None and isinstance(self.position.table, nn.Parameter):
            nn.init.normal_(self.position.table, std=0.02)
        # Shifts, scales and gates begin at zero: gated blocks begin as the identity, others as those of a plain ViT. A
        # zero final layer makes the output zero.
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
        nn.init.zeros_(self.final.linear.weight)

    def compile_in_place(self, backend: str, mode: str | None = None) -> None:
        """Every block by itself, so that blocks of one shape share what is compiled; with CUDA graphs as a whole."""
        if mode == GRAPHS:
            return super().compile_in_place(backend, mode)
        torch.compiler.reset()
        for block in self.blocks:
            block.compile(backend=backend, fullgraph=True, options=compile_options(backend, mode))

    @property
    def conditions(self) -> dict[str, Condition]:
        return {"augment": Condition((self.augment_dim,), built_in=True)} if self.augment_dim else {}

    @property
    def features(self) -> tuple[str, ...]:
        """Tokens [B, N, W] after each block: "block_0", ..."""
        return tuple(f"block_{number}" for number in range(len(self.blocks)))

    @classmethod
    def check_size(cls, arguments: Mapping[str, Any], tensors: int) -> None:
        depth, patch_size = arguments.get("depth", 1), arguments.get("patch_size", 2)
        if depth > tensors:
            raise ValueError(f"has depth={depth:,}, but there are {tensors} tensors")
        # Positions follow from the number of tokens alone: no shape of a weight tells if they fit into memory.
        if (count := (arguments["image_size"] // max(1, patch_size)) ** 2) > _MOST_TOKENS:
            raise ValueError(f"has {count:,} tokens a picture, of which {_MOST_TOKENS:,} are allowed")

    @property
    def learns_variance(self) -> bool:
        return self.arguments["learn_variance"]

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
        absent: Mapping[str, Tensor] = NONE,
        features: Sequence[str] = (),
    ) -> Tensor | Output:
        """x: [B, C, H, W]; time: [B] as the path's `network_time` tells it; labels: [B] in 0 ... num_classes, or None
        for "no class"; augment: [B, augment_dim], how the pictures were augmented, None for not at all, as in the rows
        where `absent["augment"]` [B] holds; features: what else to return, in an `Output`."""
        height, width = x.shape[-2:]
        if x.shape[1:] != (self.channels, self.image_size, self.image_size):
            raise ValueError(
                f"this network takes pictures of {self.channels} x {self.image_size} x {self.image_size}, "
                f"got {' x '.join(map(str, x.shape[1:]))}"
            )
        if augment is not None and augment.shape != (expected := (len(x), self.augment_dim)):
            raise ValueError(f"augment must have shape {expected} for this network, got {tuple(augment.shape)}")
        # In the dtype of x: under autocast blocks compute in bfloat16, but what they add up stays float32.
        tokens = self.patch_embed(patchify(x, self.patch_size)).to(x.dtype)  # [B, N, W]
        if self.position is not None:
            tokens = self.position(tokens)  # [B, N, W]
        rotation = self.rotary() if self.rotary is not None else None  # [N, D] twice
        label = self.label_embed(labels, len(x))  # [B, W]
        moment = self.time_embed(time)  # [B, W]
        if self.augment_embed is not None and augment is not None:
            if (unknown := absent.get("augment")) is not None:
                augment = augment.masked_fill(unknown[:, None], 0)  # [B, augment_dim]
            moment = moment + self.augment_embed(augment.to(self.augment_embed.weight.dtype))  # [B, W]
        condition = self.conditioning(moment, label)
        found: dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks):
            if index == 0 and condition.tokens is not None:
                tokens, rotation = _prepend(condition.tokens, tokens, rotation)  # [B, M + N, W]
            if index == self.class_tokens_from and self.class_tokens is not None:
                tokens, rotation = _prepend(self.class_tokens(label), tokens, rotation)  # [B, M + N, W]
            every = self.activation_checkpointing
            if every and index % every == 0 and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, condition.block, rotation, use_reentrant=False)  # [B, M + N, W]
            else:
                tokens = block(tokens, condition.block, rotation)  # [B, M + N, W]
            if (name := f"block_{index}") in features:
                found[name] = tokens[:, -self.num_tokens :]  # [B, N, W]
        values = self.final(tokens[:, -self.num_tokens :], condition.final)  # [B, N, p p C]
        native = unpatchify(values, self.patch_size, height, width)  # [B, C, H, W]
        return Output(native, found, {}) if features else native  # [B, C, H, W]


def _prepend(extra: Tensor, tokens: Tensor, rotation: Any) -> tuple[Tensor, Any]:
    return torch.cat([extra, tokens], dim=1), unrotated_before(rotation, extra.shape[1])  # [B, M + N, W]


def _check(**arguments: Any) -> None:
    """ValueError, naming the key, where arguments of a DiT do not fit together."""
    least = {"image_size": 1, "channels": 1, "num_classes": 0, "patch_size": 1, "hidden_size": 1, "depth": 1}
    least |= {"num_heads": 1, "class_tokens": 0, "class_tokens_from": 0, "bottleneck": 0, "augment_dim": 0}
    if arguments["num_kv_heads"] is not None:
        least["num_kv_heads"] = 1
    for key, smallest in least.items():
        value = arguments[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            raise ValueError(f"model.{key} must be a whole number of at least {smallest}, got {value!r}")
    for key, known in {"conditioning": CONDITIONINGS, "norm": NORMS, "mlp": MLPS, "position": POSITIONS}.items():
        if arguments[key] not in known:
            raise ValueError(f"model.{key} must be one of {', '.join(known)}, got {arguments[key]!r}")
    for key in ("learn_variance", "qk_norm", "time_endpoint"):
        if not isinstance(arguments[key], bool):
            raise ValueError(f"model.{key} must be true or false, got {arguments[key]!r}")
    for key, smallest in {"mlp_ratio": 2 / arguments["hidden_size"], "mlp_norm_eps": 0, "qk_norm_eps": 0}.items():
        value = arguments[key]
        if not isinstance(value, int | float) or not max(smallest, 1e-30) <= value < math.inf:
            raise ValueError(f"model.{key} must be a positive number, got {value!r}")
    width, heads, kv_heads = (arguments[key] for key in ("hidden_size", "num_heads", "num_kv_heads"))
    if arguments["image_size"] % arguments["patch_size"]:
        raise ValueError(
            f"model.patch_size must divide the image size {arguments['image_size']}, got {arguments['patch_size']}"
        )
    if width % heads:
        raise ValueError(f"model.num_heads must divide hidden_size {width}, got {heads}")
    if kv_heads is not None and heads % kv_heads:
        raise ValueError(f"model.num_kv_heads must divide num_heads {heads}, got {kv_heads}")
    added, rotary = POSITIONS[arguments["position"]]
    head_dim = width // heads
    if added == "sincos" and width % 4:
        raise ValueError(f"model.hidden_size must be a multiple of 4 for 2-D sine-cosine positions, got {width}")
    if rotary and head_dim % 4:
        raise ValueError(f"model.hidden_size / num_heads must be a multiple of 4 for 2-D rotation, got {head_dim}")
    first, last = arguments["class_tokens_from"], arguments["depth"] - 1
    if first > last:
        raise ValueError(f"model.class_tokens_from must be a block, 0 to {last}, got {first}")
