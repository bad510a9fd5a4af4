"""DiT: the whole network, built, initialised and run in reading order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dit.model.block import DiTBlock, FinalLayer, Modulation
from dit.model.embed import LabelEmbed, TimeEmbed, patchify, sincos_positions, unpatchify


class DiT(nn.Module):
    """Class-conditional diffusion transformer with adaLN-Zero blocks (Peebles and Xie 2023).

    image_size: pixels (or latents) a side. channels: of the picture. patch_size: pixels a side of a token.
    hidden_size: width W of the tokens. num_classes: real classes; 0 is an unconditional model. class_dropout: the rate
    at which a label is replaced by the null label in training; the null row exists at every rate, so shapes never
    depend on it.
    learn_variance: output 2C channels, the second half for a learned variance. attention: see `attention.py`.
    activation_checkpointing: recompute blocks in the backward pass, trading time for memory.

    Raises ValueError where these do not fit together.
    """

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
        class_dropout: float = 0.1,
        learn_variance: bool = False,
        attention: str = "sdpa",
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        sizes = {"patch_size": patch_size, "hidden_size": hidden_size, "depth": depth, "num_heads": num_heads}
        for name, value in {
            **sizes,
            "image_size": image_size,
            "channels": channels,
            "num_classes": num_classes,
        }.items():
            least = 0 if name == "num_classes" else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(f"model.{name} must be a whole number of at least {least}, got {value!r}")
        if image_size % patch_size:
            raise ValueError(f"model.patch_size must divide the image size {image_size}, got {patch_size}")
        if hidden_size % num_heads:
            raise ValueError(f"model.num_heads must divide hidden_size {hidden_size}, got {num_heads}")
        if hidden_size % 4:
            raise ValueError(
                f"model.hidden_size must be a multiple of 4 for 2-D sine-cosine positions, got {hidden_size}"
            )
        if not isinstance(class_dropout, int | float) or not 0 <= class_dropout <= 1:
            raise ValueError(f"model.class_dropout must be in [0, 1], got {class_dropout!r}")
        self.arguments: dict[str, Any] = {
            "image_size": image_size, "channels": channels, "num_classes": num_classes, "patch_size": patch_size,
            "hidden_size": hidden_size, "depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio,
            "class_dropout": class_dropout, "learn_variance": learn_variance,
        }  # fmt: skip
        self.image_size, self.channels, self.patch_size, self.num_classes = (
            image_size,
            channels,
            patch_size,
            num_classes,
        )
        self.class_dropout, self.activation_checkpointing = class_dropout, activation_checkpointing
        out_channels = 2 * channels if learn_variance else channels

        side = image_size // patch_size
        self.patch_embed = nn.Linear(patch_size**2 * channels, hidden_size)
        self.register_buffer("positions", sincos_positions(hidden_size, side, side), persistent=False)
        self.time_embed = TimeEmbed(hidden_size)
        self.label_embed = LabelEmbed(num_classes, hidden_size, class_dropout)
        self.blocks = nn.ModuleList(DiTBlock(hidden_size, num_heads, mlp_ratio, attention) for _ in range(depth))
        self.final = FinalLayer(hidden_size, patch_size**2 * out_channels)
        self.initialise()

    def initialise(self) -> None:
        """Every weight, in reading order (Peebles and Xie 2023, section 3.2 and their released models)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.label_embed.table.weight, std=0.02)
        for layer in (self.time_embed.enter, self.time_embed.leave):
            nn.init.normal_(layer.weight, std=0.02)
        # adaLN-Zero: gates of zero make each block the identity, a zero final layer makes the output zero.
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
        nn.init.zeros_(self.final.linear.weight)

    @property
    def null_label(self) -> int:
        """The label of "no class"."""
        return self.num_classes

    @property
    def trained_null_label(self) -> int | None:
        """The null label if training ever used it, else None: what a Denoiser should be told."""
        return self.null_label if self.num_classes == 0 or self.class_dropout > 0 else None

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W]; time: [B] as the path's `network_time` tells it; labels: [B] in 0 ... num_classes, or None
        for "no class"; drop: [B] bool, which labels to replace by the null label, drawn in training if not given."""
        height, width = x.shape[-2:]
        tokens = self.patch_embed(patchify(x, self.patch_size)) + self.positions  # [B, N, W]
        condition = self.time_embed(time) + self.label_embed(labels, len(x), drop)  # [B, W]
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, condition, use_reentrant=False)  # [B, N, W]
            else:
                tokens = block(tokens, condition)  # [B, N, W]
        values = self.final(tokens, condition)  # [B, N, p p C]
        return unpatchify(values, self.patch_size, height, width)  # [B, C, H, W]
