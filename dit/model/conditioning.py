"""How time and label reach the blocks: the four ways of Peebles and Xie (2023, section 3.2), and PixArt's."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dit.model.block import CrossAttentionBlock, ModulatedBlock, Modulation, Offset, Parts, PlainBlock, Ungated


@dataclass(frozen=True)
class Condition:
    """What every block is given; what modulates the final layer, if anything; and tokens [B, M, W] that stand before
    the picture's from the first block on."""

    block: Any = None
    final: Tensor | None = None
    tokens: Tensor | None = None


class Conditioning(nn.Module):
    """Makes the blocks that understand the condition it makes of time [B, W] and label [B, W]."""

    modulates = True  # its condition modulates what norms return

    def __init__(self, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size

    @abstractmethod
    def block(self, parts: Parts) -> nn.Module:
        """A fresh block."""

    @abstractmethod
    def forward(self, time: Tensor, label: Tensor) -> Condition: ...


class AdaLNZero(Conditioning):
    """Each block regresses shift, scale and gate from the sum of time and label."""

    def block(self, parts: Parts) -> nn.Module:
        return ModulatedBlock(parts, lambda: Modulation(self.hidden_size, 6))

    def forward(self, time: Tensor, label: Tensor) -> Condition:
        total = time + label  # [B, W]
        return Condition(block=total, final=total)


class AdaLN(Conditioning):
    """Shift and scale alone."""

    def block(self, parts: Parts) -> nn.Module:
        return ModulatedBlock(parts, lambda: Ungated(self.hidden_size))

    def forward(self, time: Tensor, label: Tensor) -> Condition:
        total = time + label  # [B, W]
        return Condition(block=total, final=total)


class AdaLNSingle(Conditioning):
    """One regression for all blocks, and a table of offsets in each: a third fewer weights in DiT-XL. The final layer
    keeps a regression of its own."""

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size)
        self.shared = Modulation(hidden_size, 6)

    def block(self, parts: Parts) -> nn.Module:
        return ModulatedBlock(parts, lambda: Offset(self.hidden_size))

    def forward(self, time: Tensor, label: Tensor) -> Condition:
        total = time + label  # [B, W]
        return Condition(block=self.shared(total), final=total)


class InContext(Conditioning):
    """Time and label are two more tokens."""

    modulates = False

    def block(self, parts: Parts) -> nn.Module:
        return PlainBlock(parts)

    def forward(self, time: Tensor, label: Tensor) -> Condition:
        return Condition(tokens=torch.stack([time, label], dim=1))  # [B, 2, W]


class CrossAttended(Conditioning):
    """Time and label are a sequence of two that every block asks."""

    modulates = False

    def block(self, parts: Parts) -> nn.Module:
        return CrossAttentionBlock(parts)

    def forward(self, time: Tensor, label: Tensor) -> Condition:
        return Condition(block=torch.stack([time, label], dim=1))  # [B, 2, W]


CONDITIONINGS: dict[str, type[Conditioning]] = {
    "adaln_zero": AdaLNZero,
    "adaln": AdaLN,
    "adaln_single": AdaLNSingle,
    "in_context": InContext,
    "cross_attention": CrossAttended,
}


class ClassTokens(nn.Module):
    """`count` tokens that carry the label, told apart by learned positions (Li and He 2025, JiT, "in-context class
    conditioning")."""

    def __init__(self, hidden_size: int, count: int):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(count, hidden_size))

    def forward(self, label: Tensor) -> Tensor:
        return label[:, None] + self.positions  # [B, count, W]
