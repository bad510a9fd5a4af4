"""What every data module is: labelled pictures, a global batch size, and facts the model is built from."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from data.augment import Karras
from data.order import EndlessOrder, Pick
from data.split import Batch, InMemory, Numbers, Picks, Split
from data.subset import Subset
from data.survey import Survey
from dit.checks import check_whole, printable, shown
from dit.codec import Pixels

_SHARED, _PREFETCHED = "/dev/shm", 2  # where workers leave batches, and how many each of them makes ahead
_LARGEST_SEED = 10**13  # the order of epoch e is seeded with 1,000,003 times as much, plus e, in 64 bits


def _as_is(batch: Any) -> Any:
    return batch


class Pictures(LightningDataModule, ABC):
    """Base of all data modules.

    image_size, channels and num_classes are declared in the configuration, where the model reads them, and checked
    against the pictures in `setup`. batch_size is global: over all ranks and accumulated micro-batches of one
    optimiser step. mirror: random horizontal flips in training. validation_images: the first so many of a fixed
    shuffle of the validation split, all if None. seed: of the data order. classes: names of those to keep, all if None;
    fraction: the share of the training pictures of each class to keep. augment: what is done to training pictures on
    the device, told to the network. storage: where training pictures live, "disk", "memory" or "device"; by default the
    first of `storages`. The batches of all three are equal to the bit.

    Raises ValueError, naming the key, for a value that cannot be.
    """

    storages: tuple[str, ...] = ("disk", "memory", "device")  # those that a kind of data has, its default first
    augmentable = True  # what the codec encodes are pictures that can be turned

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        batch_size: int,
        seed: int = 0,
        mirror: bool = False,
        num_workers: int = 0,
        validation_images: int | None = 256,
        validation_batch_size: int = 128,
        classes: Sequence[str | int] | None = None,
        fraction: float = 1.0,
        augment: Karras | None = None,
        storage: str | None = None,
    ):
        super().__init__()
        sizes = {"image_size": image_size, "channels": channels, "num_classes": num_classes, "batch_size": batch_size}
        for key, value in (sizes | {"validation_batch_size": validation_batch_size}).items():
            check_whole(f"data.{key}", value, 1)
        check_whole("data.num_workers", num_workers, 0)
        check_whole("data.seed", seed, 0, _LARGEST_SEED)
        if validation_images is not None:
            check_whole("data.validation_images", validation_images, 1)
        if not isinstance(mirror, bool):
            raise ValueError(f"data.mirror must be true or false, got {shown(mirror)}")
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise ValueError(f"data.fraction must be above 0 and at most 1, got {shown(fraction)}")
        if classes is not None and (isinstance(classes, str) or not isinstance(classes, Sequence)):
            raise ValueError(f"data.classes must be a list of class names, got {shown(classes)}")
        if augment is not None and not isinstance(augment, Karras):
            raise ValueError(f"data.augment must be null or what augment=karras makes, got {shown(augment)}")
        if storage is not None and storage not in self.storages:
            raise ValueError(
                f"data.storage of {type(self).__name__} must be one of {', '.join(self.storages)}, got {shown(storage)}"
            )
        if augment is not None and not self.augmentable:
            raise ValueError(f"data.augment must be null: {type(self).__name__} has no pixels that could be moved")
        if augment is not None and augment.x_flip and mirror:
            raise ValueError(
                "data.mirror=true hides the flips that data.augment.x_flip=true tells the network of; set one to false"
            )
        self.augment, self.storage = augment, self.storages[0] if storage is None else storage
        self.classes, self.fraction = None if classes is None else [str(name) for name in classes], fraction
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
        self.batch_size, self.seed, self.mirror, self.num_workers = batch_size, seed, mirror, num_workers
        self.validation_images, self.validation_batch_size = validation_images, validation_batch_size
        self.codec = Pixels()
        self.train: Split | None = None
        self.validation: Split | None = None
        self._resident: InMemory | None = None

    @property
    @abstractmethod
    def all_class_names(self) -> list[str]:
        """The names of all classes there are, known before `setup`."""

    @property
    def class_names(self) -> list[str]:
        """One name per label: those of `classes`, in its order. ValueError for one that is not there, or twice."""
        names = self.all_class_names
        if self.classes is None:
            return names
        unknown = [name for name in self.classes if name not in names]
        if unknown or len(set(self.classes)) < len(self.classes) or not self.classes:
            known = printable(", ".join(names[:10]) + (", ..." if len(names) > 10 else ""))
            asked = printable(", ".join(self.classes)) or "none"
            raise ValueError(f"data.classes must be different ones of {known}; got {asked}")
        return self.classes

    @abstractmethod
    def load(self) -> tuple[Split, Split]:
        """The training and the validation split."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint must know about the pictures, in plain containers."""
        return {
            "image_size": self.image_size,
            "channels": self.channels,
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "codec": self.codec.spec,
            "conditions": {} if self.augment is None else {"augment": [self.augment.dim]},
        }

    def setup(self, stage: str | None = None) -> None:
        if self.train is not None:
            return
        self._check_count()
        train, validation = self._chosen(*self.load())
        shape = tuple(train.read(0).shape)
        if shape != (self.channels, self.image_size, self.image_size):
            raise ValueError(
                f"data.channels={self.channels} and data.image_size={self.image_size}, "
                f"but the pictures have shape {shape}"
            )
        self.train, self.validation = train, validation

    def survey(self) -> Survey:
        """What there is, for `data.inspect`. ValueError for what leaves nothing to look at."""
        self.prepare_data()
        self.setup()
        assert self.train is not None
        assert self.validation is not None
        return Survey(self.train, self.validation)

    def _check_count(self) -> None:
        if (count := len(self.class_names)) != self.num_classes:
            raise ValueError(f"data.num_classes={self.num_classes}, but the pictures have {count} classes")

    def _chosen(self, train: Split, validation: Split) -> tuple[Split, Split]:
        """Without the classes and the pictures that were not asked for."""
        if self.classes is None and self.fraction == 1:
            return train, validation
        keep = [self.all_class_names.index(name) for name in self.class_names]
        return Subset(train, keep, self.fraction), Subset(validation, keep)

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.train is not None
        assert self.trainer is not None
        forward_passes = self.trainer.world_size * self.trainer.accumulate_grad_batches
        if self.batch_size % forward_passes:
            raise ValueError(
                f"data.batch_size={self.batch_size} is global and must be divisible by "
                f"{self.trainer.world_size} processes x {self.trainer.accumulate_grad_batches} accumulated batches"
            )
        order = EndlessOrder(
            pictures=len(self.train),
            batch_size=self.batch_size // self.trainer.accumulate_grad_batches,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            mirror=self.mirror,
            # Lightning has restored its loops by now: a resumed run goes on with the next batch.
            start=self.trainer.fit_loop.total_batch_idx + 1,
        )
        # Not in `setup`: whoever only looks at some pictures, as evaluate.py does, need not decode all.
        match self.storage:
            case "disk":
                return self._loader(self.train, order, self.batch_size // forward_passes)
            case "memory":
                return self._loader(self.train.in_memory(), order, self.batch_size // forward_passes)
            case _:
                self._resident = self.train.in_memory().to(self.trainer.strategy.root_device)
                return self._loader(Numbers(), order, 0)

    def val_dataloader(self) -> DataLoader[Batch]:
        assert self.validation is not None
        size = self.validation_batch_size
        picks = [Pick(i) for i in self.validation.some(self.validation_images)]
        batches = [picks[i : i + size] for i in range(0, len(picks), size)]
        return self._loader(self.validation, batches, size)

    def _loader(self, split: Any, batches: Any, size: int) -> DataLoader[Any]:
        """Of batches of so many pictures; 0: of their numbers alone, which needs no workers."""
        num_workers = self.num_workers if size else 0
        _check_shared_memory(num_workers, size * self.picture_bytes)
        return DataLoader(
            split,
            batch_sampler=batches,
            collate_fn=_as_is,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def picture_bytes(self) -> int:
        """What a worker hands over for a picture."""
        return self.channels * self.image_size**2

    def state_dict(self) -> dict[str, Any]:
        """What fixes which pictures a batch number means; saved by Lightning in every checkpoint."""
        chosen = {"classes": self.classes, "fraction": self.fraction}
        counted = {"pictures": len(self.train) if self.train is not None else 0}
        settings = {"batch_size": self.batch_size, "seed": self.seed, "mirror": self.mirror}
        done = {} if self.augment is None else {f"augment.{key}": value for key, value in asdict(self.augment).items()}
        named = {"augment": None if self.augment is None else type(self.augment).__name__}
        return settings | chosen | counted | named | done

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not isinstance(state_dict, dict):
            raise ValueError(
                f"cannot resume: the checkpoint's settings of the data are {shown(state_dict)}, not values by name"
            )
        for key, mine in self.state_dict().items():
            theirs = state_dict.get(key, mine)  # a checkpoint of an older version knows fewer
            if isinstance(theirs, Tensor) or theirs != mine:
                why = "show other pictures" if key.startswith("augment") else "repeat or skip pictures"
                raise ValueError(
                    f"cannot resume with data.{key}={mine}: the checkpoint was trained with {shown(theirs)}, and "
                    f"another value would {why}"
                )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        # Their numbers stay: validation draws its noise on the CPU, and to read them would wait for the device.
        return moved._replace(index=batch.index) if isinstance(batch, Batch) else moved

    def on_after_batch_transfer(self, batch: Batch | Picks, dataloader_idx: int) -> Batch:
        if isinstance(batch, Picks):
            assert self._resident is not None
            batch = self._resident.batch(batch)
        # Pictures travel as bytes and become floats on the device.
        images = self.codec.encode(batch.images)  # [B, C, H, W]
        if self.augment is None or batch.draws is None:
            return batch._replace(images=images)
        images, told = self.augment(images, batch.draws)
        return batch._replace(images=images, conditions={"augment": told})


def _check_shared_memory(num_workers: int, batch_bytes: int) -> None:
    """ValueError where /dev/shm is too small for what workers hand over: there they would be killed without a word. A
    container has 64 MB of it by default."""
    needed = num_workers * _PREFETCHED * batch_bytes
    if num_workers and os.path.isdir(_SHARED) and (free := shutil.disk_usage(_SHARED).free) < needed:
        raise ValueError(
            f"data.num_workers={num_workers} hand over batches through {_SHARED}, which has {free / 1e6:,.1f} MB free "
            f"and needs {needed / 1e6:,.1f} MB: data.num_workers=0 does without, docker run --shm-size=2g gives more"
        )
