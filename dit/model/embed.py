"""Pictures, times and labels become tokens and vectors."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from dit.model.precision import no_autocast


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """[B, C, H, W] -> tokens [B, (H/p)(W/p), p p C], row by row."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(tokens: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """Inverse of `patchify` for a picture of height x width pixels."""
    return rearrange(
        tokens, "b (h w) (p q c) -> b c (h p) (w q)", p=patch_size, q=patch_size, h=height // patch_size,
        w=width // patch_size,
    )  # fmt: skip


class BottleneckEmbed(nn.Sequential):
    """Patches to tokens through a narrow layer without bias (Li and He 2025, JiT)."""

    def __init__(self, values: int, bottleneck: int, hidden_size: int):
        super().__init__(nn.Linear(values, bottleneck, bias=False), nn.Linear(bottleneck, hidden_size))


class TimeEmbed(nn.Module):
    """Sinusoid of the network's time followed by an MLP (Ho et al. 2020; Peebles and Xie 2023).

    The sinusoid is computed in float32 whatever the network runs in: time in bfloat16 cannot tell 997 from 1,000. Nor
    does autocast reach the MLP, for which neighbouring times would round to the same wave. The frequencies fall
    geometrically from 1 towards 1e-4, which they reach only with `endpoint`: DiT and its descendants stop one short of
    it, diffusers' DiT does not.
    """

    def __init__(self, hidden_size: int, frequency_channels: int = 256, endpoint: bool = False):
        super().__init__()
        self.frequency_channels, self.endpoint = frequency_channels, endpoint
        self.enter = nn.Linear(frequency_channels, hidden_size)
        self.silu = nn.SiLU()
        self.leave = nn.Linear(hidden_size, hidden_size)

    def forward(self, time: Tensor) -> Tensor:
        # Computed here rather than kept as a buffer, which a network cast to bfloat16 would cast as well.
        half = self.frequency_channels // 2
        # In this order, which is that of the published networks: a last digit of a frequency is seen a thousandfold.
        exponents = -math.log(10_000) * torch.arange(half, device=time.device, dtype=torch.float32)
        angle = time.float()[:, None] * torch.exp(exponents / (half - self.endpoint))  # [B, F/2]
        wave = torch.cat([angle.cos(), angle.sin()], dim=1)  # [B, F]
        with no_autocast(wave):
            return self.leave(self.silu(self.enter(wave.to(self.enter.weight.dtype))))  # [B, W]


class LabelEmbed(nn.Module):
    """One row per class and, always, one more for "no class": row `num_classes`."""

    def __init__(self, num_classes: int, hidden_size: int):
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, hidden_size)
        self.num_classes = num_classes

    def forward(self, labels: Tensor | None, batch: int) -> Tensor:
        """labels: [B], or None for "no class" everywhere."""
        if labels is None or self.num_classes == 0:
            labels = torch.full((batch,), self.num_classes, device=self.table.weight.device)  # [B]
        return self.table(labels)  # [B, W]
