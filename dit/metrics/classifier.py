"""A small classifier of the real pictures: it says which class a sample shows, and lends its features."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit.checks import check_number, check_whole
from dit.files import parse_json
from dit.metrics.cache import kept, read_tensors
from dit.metrics.features import Features, digest_of
from dit.tensors import save_tensors

_log = logging.getLogger(__name__)
SMALL, LARGE = 16, 32  # pictures below SMALL pixels have a network of their own; those above LARGE are shrunk to it
MAPS, CELLS = 8, 4  # spatial features: the first 8 maps of the last block, averaged to 4 x 4
EPOCHS, BATCH = 8, 128


class SmallConvNet(nn.Module):
    """Three convolutions below 16 pixels, six above and a global average: uint8 [B, C, H, W] -> features [B, F]; `head`
    makes logits [B, K] of them. Larger pictures are averaged to 32 pixels first."""

    def __init__(self, channels: int, num_classes: int, image_size: int):
        super().__init__()
        if image_size < SMALL:
            self.num_features = 64
            maps = (
                nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
                nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            )  # fmt: skip
            pool = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU()
        else:
            self.num_features = 192
            maps = (
                _conv(channels, 24), _conv(24, 48, stride=2), _Residual(48), _conv(48, 96, stride=2), _Residual(96),
                _conv(96, 192, stride=2), _Residual(192),
            )  # fmt: skip
            pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.trunk = nn.Sequential(*maps, *pool)
        if image_size >= SMALL:
            self.trunk.to(memory_format=torch.channels_last)  # a third less time on a CPU
        self.head = nn.Linear(self.num_features, num_classes)
        self.depth = len(maps)  # of the trunk, up to where the maps are pooled

    def maps(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1  # [B, C, H, W]
        if max(x.shape[-2:]) > LARGE:
            x = F.adaptive_avg_pool2d(x, LARGE)  # [B, C, 32, 32]
        if min(x.shape[-2:]) >= SMALL:
            x = x.contiguous(memory_format=torch.channels_last)  # [B, C, H, W]
        return self.trunk[: self.depth](x)  # [B, M, h, w]

    def pool(self, maps: Tensor) -> Tensor:
        return self.trunk[self.depth :](maps)  # [B, F]

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.maps(images))  # [B, F]


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # [B, W, h, w]


@dataclass(frozen=True)
class Classifier:
    """A trained network in evaluation mode, which is an `Extractor`; `digest` names its weights, `held_out_accuracy`
    what it is worth."""

    network: SmallConvNet
    digest: str
    held_out_accuracy: float
    num_classes: int
    shape: tuple[int, int, int]  # C, H, W it was trained on

    name = "classifier"
    min_size = 1

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "digest": self.digest, "held_out_accuracy": self.held_out_accuracy}

    def to(self, device: torch.device | str) -> Classifier:
        self.network.to(device)
        return self

    def save(self, file: Path) -> None:
        """As a .safetensors with digests. Raises ValueError if it cannot be written."""
        facts = {key: value for key, value in vars(self).items() if key != "network"}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(file, self.network.state_dict(), {"classifier": json.dumps(facts)})

    @staticmethod
    def load(file: Path) -> Classifier:
        """Raises ValueError if `file` is not as `save` wrote it."""
        weights, metadata = read_tensors(file)
        try:
            facts = parse_json(metadata["classifier"])
            digest, accuracy = str(facts["digest"]), facts["held_out_accuracy"]
            channels, height, width = shape = tuple(facts["shape"])
            check_number("held_out_accuracy", accuracy, 0, 1)
            for key, value in {"num_classes": facts["num_classes"], "shape": min(shape)}.items():
                check_whole(key, value, 1, 1 << 20)
            built = channels, facts["num_classes"], min(height, width)
            with torch.device("meta"):  # no memory before the weights are known to be as large
                wanted = {name: tensor.shape for name, tensor in SmallConvNet(*built).state_dict().items()}
            if wanted != {name: tensor.shape for name, tensor in weights.items()}:
                raise ValueError("its weights are of another network")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} holds no classifier: {error}") from error
        network = SmallConvNet(*built)
        network.load_state_dict(weights)
        return Classifier(network.eval(), digest, accuracy, facts["num_classes"], shape)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Of uint8 [B, C, H, W]: pooled [B, 64 or 192], spatial [B, 128], logits [B, num_classes].

        Raises ValueError for pictures of another shape than it was trained on.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"the classifier was trained on pictures {list(self.shape)} and takes no others, "
                f"got {list(images.shape[1:])}"
            )
        maps = self.network.maps(images.to(self.network.head.weight.device))  # [B, M, h, w]
        pooled = self.network.pool(maps)  # [B, F]
        spatial = F.adaptive_avg_pool2d(maps[:, :MAPS], CELLS).flatten(1)  # [B, 128]
        return Features(pooled, spatial, self.network.head(pooled))

    def predict(self, images: Tensor, batch_size: int = 512) -> Tensor:
        """Most likely class [N] of uint8 images [N, C, H, W]."""
        logits = [self(part).logits for part in images.split(batch_size)]
        return torch.cat([part.argmax(1) for part in logits if part is not None]).to(images.device)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Fraction of images seen as their label."""
        return float((self.predict(images) == labels).double().mean())


class LabelledPictures(Protocol):
    """Pictures that are decoded only when they are asked for: uint8 [N, C, H, W] and labels [N]."""

    @cached_property
    def digest(self) -> str: ...

    def tensors(self) -> tuple[Tensor, Tensor]: ...


def classifier_of(
    train: LabelledPictures,
    held_out: LabelledPictures,
    num_classes: int,
    cache: Path,
    device: torch.device | str = "cpu",
) -> Classifier:
    """`train_classifier` once; later calls with the same pictures read `cache` and decode none."""
    content = f"{train.digest} {held_out.digest} {num_classes}"
    file = cache / f"classifier-{hashlib.sha256(content.encode()).hexdigest()[:16]}.safetensors"

    def make() -> Classifier:
        return train_classifier(train.tensors(), held_out.tensors(), num_classes, device=device)

    return kept(file, Classifier.load, make, Classifier.save).to(device)


def train_classifier(
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    num_classes: int,
    steps: int | None = None,
    minimum: float | None = None,
    device: torch.device | str = "cpu",
) -> Classifier:
    """Train on real (images uint8 [N, C, H, W], labels [N]).

    AdamW with a one-cycle rate, batches of 128, random shifts by one pixel in 8; 600 steps below 16 pixels, 8 epochs
    but at least 600 steps above. The same pictures give the same weights on the same machine. Raises ValueError for a
    class without pictures, and where the accuracy on `held_out` is below `minimum`, by default the middle of chance
    and 1: a judge that errs more often than not judges nothing.
    """
    images, labels = train
    missing = sorted(set(range(num_classes)) - set(labels.tolist()))
    if missing:
        raise ValueError(f"class {missing[0]} has no pictures: a classifier needs some of each of the {num_classes}")
    if len(held_out[0]) == 0:
        raise ValueError("there are no held-out pictures: the classifier's accuracy has to be measured on some")
    small = min(images.shape[-2:]) < SMALL
    if steps is None:
        steps = 600 if small else max(600, EPOCHS * len(images) // BATCH)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    _log.info("training the classifier of %s pictures, once: %s steps", f"{len(images):,}", f"{steps:,}")
    with torch.random.fork_rng(devices=[]), _threads(1 if small else None):
        # With one thread small sums come out the same however many cores there are.
        torch.manual_seed(0)
        network = SmallConvNet(images.shape[1], num_classes, min(images.shape[-2:])).to(device)
        _fit(network, images, labels, steps)
    network.eval()
    digest = digest_of(network)
    accuracy = Classifier(network, digest, 0.0, num_classes, shape).accuracy(*held_out)
    least = (1 + 1 / num_classes) / 2 if minimum is None else minimum
    if accuracy < least:
        raise ValueError(
            f"the classifier sees {accuracy:.3f} of {len(held_out[0]):,} held-out pictures right, too few to judge "
            f"samples: at least {least:.3f} is needed (chance is {1 / num_classes:.3f}); score in other features"
        )
    return Classifier(network, digest, accuracy, num_classes, shape)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(network: SmallConvNet, images: Tensor, labels: Tensor, steps: int) -> None:
    device = network.head.weight.device
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    reach = max(1, images.shape[-1] // 8)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,))
        padded = F.pad(images[chosen].to(device).float(), [reach] * 4, mode="replicate")
        row, column = torch.randint(0, 2 * reach + 1, (2,)).tolist()
        shifted = padded[..., row : row + images.shape[-2], column : column + images.shape[-1]]
        loss = F.cross_entropy(network.head(network(shifted)), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
