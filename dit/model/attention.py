"""One door to the attention kernels (PyTorch's SDPA, flash-attn, xformers, plain arithmetic), and the layers on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dit.model.linear import Linear
from dit.model.norm import make_norm
from dit.model.position import Rotation, rotate
from dit.model.precision import compiled_in_bfloat16_on_cpu, no_autocast

# On a CPU a compiled backward pass through plain products is twice as fast as SDPA's in bfloat16. At 1,024 tokens it is
# not, and the probabilities, which it keeps, are many.
_PLAIN_UP_TO = 512


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if k.shape[-2] <= _PLAIN_UP_TO and compiled_in_bfloat16_on_cpu(v):
        return _plain(q, k, v)
    return scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])


def _plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """In the dtype of v but for the softmax, which is in float32."""
    k, v = _one_per_query_head(q, k, v)
    scores = (q * q.shape[-1] ** -0.5).to(v.dtype) @ k.to(v.dtype).transpose(-2, -1)  # [B, H, N, M]
    return scores.float().softmax(dim=-1).to(v.dtype) @ v  # [B, H, N, D]


def _reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = _one_per_query_head(q, k, v)
    with no_autocast(q):
        weights = (q.float() @ k.float().transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)  # [B, H, N, M]
        return (weights @ v.float()).to(v.dtype)  # [B, H, N, D]


def _flash_attn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    kernel = _optional("flash_attn").flash_attn_func  # shares keys between heads itself
    if v.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError("model.attention=flash_attn computes in half precision: set trainer.precision=bf16-mixed")
    q, k = q.to(v.dtype), k.to(v.dtype)  # norms of queries and keys return float32 under autocast
    return kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)  # [B, H, N, D]


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    kernel = _optional("xformers").memory_efficient_attention
    q, (k, v) = q.to(v.dtype), _one_per_query_head(q, k.to(v.dtype), v)
    return kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)  # [B, H, N, D]


def _one_per_query_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    shared = q.shape[1] // k.shape[1]
    return (k, v) if shared == 1 else (k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1))


_OPTIONAL = {"flash_attn": ("flash_attn", "flash"), "xformers": ("xformers.ops", "xformers")}  # module, extra


def _optional(backend: str) -> Any:
    module, extra = _OPTIONAL[backend]
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(
            f"model.attention={backend} needs the package {module.split('.')[0]}: pip install 'ditlab[{extra}]'"
        ) from error


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sdpa": _sdpa,
    "flash_attn": _flash_attn,
    "xformers": _xformers,
    "reference": _reference,
}


def check_backend(name: str) -> None:
    """ValueError for an unknown backend, or one whose package is not installed."""
    if name not in BACKENDS:
        raise ValueError(f"model.attention must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name in _OPTIONAL:
        _optional(name)


def attend(q: Tensor, k: Tensor, v: Tensor, backend: str = "sdpa") -> Tensor:
    """softmax(q k^T / sqrt(D)) v for q [B, H, N, D] and k, v [B, K, M, D].

    K divides H; neighbouring query heads share keys and values (Ainslie et al. 2023). flash_attn runs on CUDA in half
    precision only; reference computes in float32 whatever it is given, under autocast as well.
    """
    return BACKENDS[backend](q, k, v)  # [B, H, N, D]


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens [B, N, W].

    num_kv_heads: heads of keys and values: as many as queries have, fewer (grouped-query) or 1 (multi-query attention).
    qk_norm: the norm of each head's queries and keys, with epsilon qk_norm_eps, or None (Dehghani et al. 2023, section
    2).
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        backend: str = "sdpa",
        num_kv_heads: int | None = None,
        qk_norm: str | None = None,
        qk_norm_eps: float = 1e-6,
    ):
        super().__init__()
        check_backend(backend)
        self.backend, self.head_dim = backend, hidden_size // num_heads
        kv_heads = num_kv_heads or num_heads
        self.heads = [num_heads, kv_heads, kv_heads]
        self.qkv = Linear(hidden_size, sum(self.heads) * self.head_dim)
        self.proj = Linear(hidden_size, hidden_size)
        if qk_norm is not None:
            norm = partial(make_norm, qk_norm, self.head_dim, modulated=False, eps=qk_norm_eps)
            self.q_norm, self.k_norm = norm(), norm()
        else:
            self.q_norm, self.k_norm = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        heads = rearrange(self.qkv(x), "b n (h d) -> b h n d", d=self.head_dim)  # [B, H + 2 K, N, D]
        q, k, v = heads.split(self.heads, dim=1)  # [B, H, N, D], [B, K, N, D] twice
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        mixed = attend(q, k, v, self.backend)  # [B, H, N, D]
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))  # [B, N, W]


class CrossAttention(nn.Module):
    """Tokens [B, N, W] ask the tokens of a condition [B, M, W]."""

    def __init__(self, hidden_size: int, num_heads: int, backend: str = "sdpa"):
        super().__init__()
        check_backend(backend)
        self.num_heads, self.backend = num_heads, backend
        self.q = Linear(hidden_size, hidden_size)
        self.kv = Linear(hidden_size, 2 * hidden_size)
        self.proj = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.num_heads)
        k, v = rearrange(self.kv(condition), "b m (two h d) -> two b h m d", two=2, h=self.num_heads)
        mixed = attend(q, k, v, self.backend)  # [B, H, N, D]
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))  # [B, N, W]
