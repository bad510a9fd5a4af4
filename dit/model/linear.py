"""The linear layers of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Linear(nn.Linear):
    """nn.Linear with a bias.

    Compiled for sampling in bfloat16 on a CPU, the bias is left to the kernel that reads the product; else it would be
    copied to every row first and the product added to it.
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and not torch.is_grad_enabled() and _in_bfloat16_on_cpu(self.weight):
            return linear(input, self.weight) + self.bias  # [..., out_features]
        return super().forward(input)  # [..., out_features]


def _in_bfloat16_on_cpu(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype is torch.bfloat16
