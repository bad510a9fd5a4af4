"""Where a token is: added to it (sine-cosine, learned), turned into its queries and keys (axial RoPE), or both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]

# Which of the two each choice has: what is added to the tokens, and whether queries and keys are rotated.
POSITIONS = {
    "none": (None, False),
    "sincos": ("sincos", False),
    "learned": ("learned", False),
    "rope": (None, True),
    "sincos_rope": ("sincos", True),  # LightningDiT, JiT
    "learned_rope": ("learned", True),
}


def sincos_positions(hidden_size: int, rows: int, columns: int) -> Tensor:
    """Fixed 2-D sine-cosine positions [rows columns, hidden_size] (Chen et al. 2021, MoCo v3; He et al. 2022, MAE).

    The first half of the channels tells the column, the second the row, each as [sin, cos] over hidden_size/4
    frequencies from 1 down to about 1e-4: the order of published DiT weights. `hidden_size` must be a multiple of 4.
    """
    frequencies = 1e-4 ** (torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size // 4))

    def axis(position: Tensor) -> Tensor:
        angle = position[:, None] * frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)  # [N, hidden_size/2]

    row, column = _grid(rows, columns)
    return torch.cat([axis(column), axis(row)], dim=1).float()  # [N, hidden_size]


def _grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Row and column [rows columns] of every token."""
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    return row.flatten(), column.flatten()


class AddedPosition(nn.Module):
    """Adds a table [N, W] to the tokens: fixed sine-cosine, or learned."""

    table: Tensor

    def __init__(self, hidden_size: int, side: int, learned: bool):
        super().__init__()
        if learned:
            self.table = nn.Parameter(torch.zeros(side * side, hidden_size))
        else:
            self.register_buffer("table", sincos_positions(hidden_size, side, side), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.table  # [B, N, W]


class AxialRotary(nn.Module):
    """Rotary positions on two axes (Su et al. 2021; as in EVA-02, Fang et al. 2023, LightningDiT and JiT).

    The first half of a head's channels is turned by the token's row, the second by its column; neighbouring channels
    form a pair, over head_dim/4 frequencies from 1 down to 1e-4. `head_dim` must be a multiple of 4.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, side: int):
        super().__init__()
        frequencies = 1e-4 ** (torch.arange(head_dim // 4, dtype=torch.float64) / (head_dim // 4))
        row, column = _grid(side, side)
        angle = torch.cat([row[:, None] * frequencies, column[:, None] * frequencies], dim=1)  # [N, D/2]
        angle = angle.repeat_interleave(2, dim=1)  # [N, D]
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self) -> Rotation:
        return self.cos, self.sin  # [N, D] each


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Queries or keys [B, H, N, D] turned by (cos, sin) [N, D]."""
    cos, sin = (table.to(x.dtype) for table in rotation)
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)  # [B, H, N, D]
    return x * cos + turned * sin  # [B, H, N, D]


def unrotated_before(rotation: Rotation | None, count: int) -> Rotation | None:
    """The rotation of the same tokens after `count` others that have no place in the picture."""
    if rotation is None:
        return None
    cos, sin = rotation
    still = cos.new_zeros(count, cos.shape[1])
    return torch.cat([still + 1, cos]), torch.cat([still, sin])
