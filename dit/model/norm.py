"""The normalisation of tokens, queries and keys."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

NORMS = ("layernorm", "rmsnorm")


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm in float32 whatever it is given; the answer has the dtype of what was given."""

    def forward(self, input: Tensor) -> Tensor:
        if self.weight is None:  # kernels take mean and variance of bfloat16 in float32 by themselves
            return super().forward(input).to(input.dtype)  # [..., W]
        weight, bias = self.weight.float(), self.bias.float()
        return layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)  # [..., W]


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm in float32 whatever it is given; the answer has the dtype of what was given."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(x.dtype)  # [..., W]


def make_norm(name: str, width: int, *, modulated: bool, eps: float = 1e-6) -> nn.Module:
    """LayerNorm (Ba et al. 2016), with weights of its own unless the condition modulates what it returns, as in DiT; or
    RMSNorm (Zhang and Sennrich 2019), always with its weight, as in LightningDiT and JiT."""
    if name == "rmsnorm":
        return RMSNorm(width, eps=eps)
    return LayerNorm(width, eps=eps, elementwise_affine=not modulated)
