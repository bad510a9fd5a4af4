"""Made-up pictures, for measuring speed and nothing else."""

from __future__ import annotations

from typing import Any

import torch

from data.pictures import Pictures
from data.split import InMemory
from dit.checks import check_whole


class Synthetic(Pictures):
    """`pictures` of random bytes with random labels, the same ones every time; a tenth as many for validation."""

    storages = ("memory", "device")

    def __init__(self, pictures: int = 1024, **arguments: Any):
        super().__init__(**arguments)
        check_whole("data.pictures", pictures, self.num_classes)  # one of each class at least
        self.pictures = pictures

    @property
    def all_class_names(self) -> list[str]:
        return [str(label) for label in range(self.num_classes)]

    def load(self) -> tuple[InMemory, InMemory]:
        return self._make(self.pictures, 0), self._make(max(self.pictures // 10, self.num_classes), 1)

    def _make(self, count: int, seed: int) -> InMemory:
        generator = torch.Generator().manual_seed(seed)
        shape = (count, self.channels, self.image_size, self.image_size)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return InMemory(images, torch.arange(count) % self.num_classes)
