"""The 1,797 handwritten digits that come with scikit-learn: real pictures without a download."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from data.pictures import Pictures
from data.split import InMemory


class Digits(Pictures):
    """8x8 grey digits (Alpaydin and Kaynak 1998), split 1,437 / 360 and stratified, always the same way.

    The 17 ink levels 0 ... 16 become bytes 0 ... 255.
    """

    storages = ("memory", "device")

    @property
    def all_class_names(self) -> list[str]:
        return [str(digit) for digit in range(10)]

    def load(self) -> tuple[InMemory, InMemory]:
        ink, target = load_digits(return_X_y=True)
        images = torch.tensor(ink).mul(255 / 16).round().to(torch.uint8).reshape(-1, 1, 8, 8)  # [N, 1, 8, 8]
        labels = torch.tensor(target, dtype=torch.int64)  # [N]
        train, held_out = train_test_split(range(len(labels)), test_size=360, stratify=target, random_state=0)
        return InMemory(images[train], labels[train]), InMemory(images[held_out], labels[held_out])
