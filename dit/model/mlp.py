"""The MLP of a block: GELU, or SwiGLU with the same number of weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from dit.model.linear import Linear


class GELU(nn.Sequential):
    """Two linears with tanh-approximated GELU between them (the MLP of ViT, as in DiT)."""

    def __init__(self, hidden_size: int, inner: int):
        super().__init__(Linear(hidden_size, inner), nn.GELU(approximate="tanh"), Linear(inner, hidden_size))


class SwiGLU(nn.Module):
    """leave(silu(a) b) where (a, b) = enter(x) (Shazeer 2020, eq. 6); two thirds of `inner`, for as many weights."""

    def __init__(self, hidden_size: int, inner: int):
        super().__init__()
        inner = inner * 2 // 3
        self.enter = Linear(hidden_size, 2 * inner)
        self.leave = Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.enter(x).chunk(2, dim=-1)  # [B, N, inner] each
        return self.leave(silu(a) * b)  # [B, N, W]


MLPS: dict[str, type[GELU] | type[SwiGLU]] = {"gelu": GELU, "swiglu": SwiGLU}
