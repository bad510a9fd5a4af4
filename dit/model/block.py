"""The transformer block with adaLN-Zero conditioning, and the layer that turns tokens back into pixels."""

from __future__ import annotations

from torch import Tensor, nn

from dit.model.attention import SelfAttention


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, the same for every token: x [B, N, W], shift and scale [B, W]."""
    return x * (1 + scale[:, None]) + shift[:, None]  # [B, N, W]


class Modulation(nn.Module):
    """`count` vectors from the condition: SiLU, then one linear (adaLN; Peebles and Xie 2023, section 3.2)."""

    def __init__(self, hidden_size: int, count: int):
        super().__init__()
        self.count = count
        self.linear = nn.Linear(hidden_size, count * hidden_size)
        self.silu = nn.SiLU()

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(self.silu(condition)).chunk(self.count, dim=1)  # count x [B, W]


class DiTBlock(nn.Module):
    """Attention and MLP, each normalised, modulated by the condition and gated. Zero gates make it the identity."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float = 4.0, attention: str = "sdpa"):
        super().__init__()
        hidden = int(hidden_size * mlp_ratio)
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attention = SelfAttention(hidden_size, num_heads, attention)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, hidden_size)
        )
        self.modulation = Modulation(hidden_size, 6)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)  # each [B, W]
        x = x + gate1[:, None] * self.attention(modulate(self.norm1(x), shift1, scale1))  # [B, N, W]
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))  # [B, N, W]


class FinalLayer(nn.Module):
    """Normalise, modulate, and one linear to the values of each patch."""

    def __init__(self, hidden_size: int, values: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.modulation = Modulation(hidden_size, 2)
        self.linear = nn.Linear(hidden_size, values)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)  # each [B, W]
        return self.linear(modulate(self.norm(x), shift, scale))  # [B, N, values]
