"""CIFAR-10 and CIFAR-100 through torchvision, which downloads them once."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from data.pictures import Pictures
from data.split import InMemory
from dit.checks import shown
from dit.files import given_path

_NAMES_10 = "airplane automobile bird cat deer dog frog horse ship truck"

_NAMES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

_VARIANTS = {"cifar10": (CIFAR10, _NAMES_10), "cifar100": (CIFAR100, _NAMES_100)}


class Cifar(Pictures):
    """32x32 colour pictures (Krizhevsky 2009): 50,000 for training, 10,000 for validation.

    root: where the archive is, or is put; variant: "cifar10" or "cifar100"; download: fetch it if it is not there.
    """

    storages = ("memory", "device")

    def __init__(self, root: str, variant: str = "cifar10", download: bool = True, **pictures: Any):
        super().__init__(**pictures)
        if not isinstance(variant, str) or variant not in _VARIANTS:
            raise ValueError(f"data.variant of CIFAR must be one of {', '.join(_VARIANTS)}, got {shown(variant)}")
        if not isinstance(download, bool):
            raise ValueError(f"data.download must be true or false, got {shown(download)}")
        self.root, self.variant, self.download = given_path("data.root", root), variant, download
        self._dataset, self._names = _VARIANTS[variant]

    @property
    def all_class_names(self) -> list[str]:
        return self._names.split()

    def prepare_data(self) -> None:
        for train in (True, False):
            self._open(train)

    def load(self) -> tuple[InMemory, InMemory]:
        train, validation = (self._read(self._open(part)) for part in (True, False))
        return train, validation

    def _open(self, train: bool) -> CIFAR10:
        try:
            return self._dataset(str(self.root), train=train, download=self.download)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"data.root={self.root} holds no complete {self.variant} and it could not be fetched "
                f"({error}); point data.root at the folder that holds the extracted archive"
            ) from error

    @staticmethod
    def _read(dataset: CIFAR10) -> InMemory:
        images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()  # [N, 3, 32, 32]
        return InMemory(images, torch.tensor(dataset.targets))
