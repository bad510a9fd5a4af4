"""The linear layers of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dit.model.precision import compiled_in_bfloat16_on_cpu


class Linear(nn.Linear):
    """nn.Linear with a bias.

    Compiled for sampling in bfloat16 on a CPU, the bias is left to the kernel that reads the product; else it would be
    copied to every row first and the product added to it.
    """

    def forward(self, input: Tensor) -> Tensor:
        if compiled_in_bfloat16_on_cpu(self.weight) and not torch.is_grad_enabled():
            return linear(input, self.weight) + self.bias  # [..., out_features]
        return super().forward(input)  # [..., out_features]
