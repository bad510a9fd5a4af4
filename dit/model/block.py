"""The transformer blocks of figure 3 of Peebles and Xie (2023), put together from parts, and the final layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dit.model.position import Rotation


@dataclass(frozen=True)
class Parts:
    """What blocks are made of; each entry makes a fresh part. norm and mlp_norm are told whether the condition will
    modulate their output."""

    hidden_size: int
    norm: Callable[..., nn.Module]
    mlp_norm: Callable[..., nn.Module]
    attention: Callable[[], nn.Module]
    cross_attention: Callable[[], nn.Module]
    mlp: Callable[[], nn.Module]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, the same for every token: x [B, N, W], shift and scale [B, 1, W]."""
    # In the dtype of x: under autocast scale is bfloat16, where 1.003 is 1.
    return x * (1 + scale.to(x.dtype)) + shift  # [B, N, W]


class Modulation(nn.Module):
    """`count` vectors from the condition: SiLU, then one linear (adaLN; Peebles and Xie 2023, section 3.2)."""

    def __init__(self, hidden_size: int, count: int):
        super().__init__()
        self.count = count
        self.linear = nn.Linear(hidden_size, count * hidden_size)
        self.silu = nn.SiLU()

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(self.silu(condition))[:, None].chunk(self.count, dim=2)  # count x [B, 1, W]


class Ungated(nn.Module):
    """Shift and scale of attention and MLP from the condition; both gates are open."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.modulation = Modulation(hidden_size, 4)

    def forward(self, condition: Tensor) -> tuple[Tensor | float, ...]:
        shift1, scale1, shift2, scale2 = self.modulation(condition)  # each [B, 1, W]
        return shift1, scale1, 1.0, shift2, scale2, 1.0


class Offset(nn.Module):
    """Six vectors that all blocks share, plus a table of the block's own (Chen et al. 2023, PixArt, section 2.3)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, hidden_size))

    def forward(self, shared: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(vector + own for vector, own in zip(shared, self.table, strict=True))  # 6 x [B, 1, W]


class ModulatedBlock(nn.Module):
    """adaLN: attention and MLP, each normalised, modulated by the condition and gated. Zero gates make it the identity.

    modulation: the part that turns the condition into shift, scale and gate of both.
    """

    def __init__(self, parts: Parts, modulation: Callable[[], nn.Module]):
        super().__init__()
        self.norm1 = parts.norm(modulated=True)
        self.attention = parts.attention()
        self.norm2 = parts.mlp_norm(modulated=True)
        self.mlp = parts.mlp()
        self.modulation = modulation()

    def forward(self, x: Tensor, condition: Any, rotation: Rotation | None = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)  # each [B, 1, W]
        x = x + gate1 * self.attention(modulate(self.norm1(x), shift1, scale1), rotation)  # [B, N, W]
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))  # [B, N, W]


class PlainBlock(nn.Module):
    """In-context conditioning: the block of a ViT, for a condition that stands among the tokens."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.norm1 = parts.norm(modulated=False)
        self.attention = parts.attention()
        self.norm2 = parts.mlp_norm(modulated=False)
        self.mlp = parts.mlp()

    def forward(self, x: Tensor, condition: None = None, rotation: Rotation | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), rotation)  # [B, N, W]
        return x + self.mlp(self.norm2(x))  # [B, N, W]


class CrossAttentionBlock(nn.Module):
    """Cross-attention: between attention and MLP the tokens ask the condition's tokens [B, M, W]."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.norm1 = parts.norm(modulated=False)
        self.attention = parts.attention()
        self.norm_cross = parts.norm(modulated=False)
        self.cross = parts.cross_attention()
        self.norm2 = parts.mlp_norm(modulated=False)
        self.mlp = parts.mlp()

    def forward(self, x: Tensor, condition: Tensor, rotation: Rotation | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), rotation)  # [B, N, W]
        x = x + self.cross(self.norm_cross(x), condition)  # [B, N, W]
        return x + self.mlp(self.norm2(x))  # [B, N, W]


class FinalLayer(nn.Module):
    """Normalise, modulate if there is a condition to do it, and one linear to the values of each patch."""

    def __init__(self, parts: Parts, values: int, modulated: bool):
        super().__init__()
        self.norm = parts.norm(modulated=modulated)
        if modulated:
            self.modulation = Modulation(parts.hidden_size, 2)
        self.linear = nn.Linear(parts.hidden_size, values)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.norm(x)  # [B, N, W]
        if condition is not None:
            x = modulate(x, *self.modulation(condition))  # [B, N, W]
        return self.linear(x)  # [B, N, values]
