"""What bfloat16 changes: islands that stay in float32, and where its own fast paths begin."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Inside, operations on the device of x compute in the dtype of what they are given."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if _has_autocast(kind) else nullcontext()


@torch.compiler.assume_constant_result  # PyTorch 2.11 cannot look into it where a network is compiled as a whole
def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)


def compiled_in_bfloat16_on_cpu(x: Tensor) -> bool:
    """Whether x is bfloat16 on a CPU and torch.compile is looking: what is faster there is not so elsewhere."""
    return torch.compiler.is_compiling() and x.device.type == "cpu" and x.dtype is torch.bfloat16
