"""One door to the attention kernels: PyTorch's SDPA, flash-attn, xformers, or plain arithmetic as the reference."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v)


def _reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).float().softmax(dim=-1)  # [B, H, N, N]
    return weights.to(v.dtype) @ v  # [B, H, N, D]


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    kernel = _optional("flash_attn", "flash").flash_attn_func
    return kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)  # [B, H, N, D]


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    kernel = _optional("xformers.ops", "xformers").memory_efficient_attention
    return kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)  # [B, H, N, D]


def _optional(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(
            f"model.attention={extra} needs the package {module.split('.')[0]}: pip install 'ditlab[{extra}]'"
        ) from error


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sdpa": _sdpa,
    "flash": _flash,
    "xformers": _xformers,
    "reference": _reference,
}


def check_backend(name: str) -> None:
    """ValueError for an unknown backend, or one whose package is not installed."""
    if name not in BACKENDS:
        raise ValueError(f"model.attention must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name in ("flash", "xformers"):
        _optional({"flash": "flash_attn", "xformers": "xformers.ops"}[name], name)


def attend(q: Tensor, k: Tensor, v: Tensor, backend: str = "sdpa") -> Tensor:
    """softmax(q k^T / sqrt(D)) v for q, k, v [B, H, N, D]. flash runs on CUDA in half precision only."""
    return BACKENDS[backend](q, k, v)  # [B, H, N, D]


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens [B, N, W]."""

    def __init__(self, hidden_size: int, num_heads: int, backend: str = "sdpa"):
        super().__init__()
        check_backend(backend)
        self.num_heads, self.backend = num_heads, backend
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        mixed = attend(q, k, v, self.backend)  # [B, H, N, D]
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))  # [B, N, W]
