"""A value of the device on its way to the host, which goes on launching work meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor


class Arriving:
    """A copy of `tensor` to the host that does not wait for the device: into pinned memory, with an event behind it.

    Reading it waits for what was launched before it, and for nothing that was launched since: an optimiser step later
    the device has passed it, or has enough to do. On a CPU the value is there at once.
    """

    def __init__(self, tensor: Tensor):
        tensor = tensor.detach()
        self._value = tensor.to("cpu", non_blocking=True, copy=True)
        self._arrived = None if tensor.device.type == "cpu" else torch.get_device_module(tensor.device).Event()
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> Tensor:
        """The value, on the CPU."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._value
