"""Lightning on the stand-in device: an accelerator, a strategy of one device, and the waits of each step."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from tests.stand_in.device import HOST, NAME, DeviceTensor, Wait


class StandInAccelerator(Accelerator):
    """As Lightning's CUDAAccelerator, of the stand-in device."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == NAME

    def teardown(self) -> None: ...

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        return devices if isinstance(devices, list) else list(range(int(devices)))

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, index) for index in StandInAccelerator.parse_devices(devices)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


def on_stand_in() -> dict[str, Any]:
    """Settings of a Trainer that runs there."""
    accelerator = StandInAccelerator()
    device = SingleDeviceStrategy(device=torch.device(NAME, 0), accelerator=accelerator)
    return {"accelerator": "auto", "strategy": device}


class CountWaits(Callback):
    """steps: the waits of each training batch, from its start to that of the next."""

    def __init__(self) -> None:
        self.steps: list[list[Wait]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        assert pl_module.device.type == NAME
        assert all(isinstance(weight, DeviceTensor) for weight in pl_module.parameters())

    def on_train_batch_start(self, *args: Any) -> None:
        HOST.waits = []
        self.steps.append(HOST.waits)

    def on_train_end(self, *args: Any) -> None:
        HOST.waits = []
