"""The normalisation of tokens, queries and keys."""

from __future__ import annotations

from torch import nn

NORMS = ("layernorm", "rmsnorm")


def make_norm(name: str, width: int, *, modulated: bool, eps: float = 1e-6) -> nn.Module:
    """LayerNorm (Ba et al. 2016), with weights of its own unless the condition modulates what it returns, as in DiT; or
    RMSNorm (Zhang and Sennrich 2019), always with its weight, as in LightningDiT and JiT."""
    if name == "rmsnorm":
        return nn.RMSNorm(width, eps=eps)
    return nn.LayerNorm(width, eps=eps, elementwise_affine=not modulated)
