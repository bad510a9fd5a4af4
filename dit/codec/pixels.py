"""Pixels to model space and back: one encode/decode pair, owned by the data, written into the checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """(pixel / 255 - mean) / std on all channels; the default maps 0 ... 255 onto [-1, 1]."""

    mean: float = 0.5
    std: float = 0.5

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> float32 in model space, on the same device."""
        # In place on the copy: fresh memory for each operation takes longer than the arithmetic.
        return pixels.to(torch.float32, copy=True).div_(255).sub_(self.mean).div_(self.std)  # [B, C, H, W]

    def decode(self, x: Tensor) -> Tensor:
        """Model space [B, C, H, W] -> uint8, rounded and clipped."""
        return ((x.float() * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)  # [B, C, H, W]

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "Pixels", **asdict(self)}
