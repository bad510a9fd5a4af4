"""A small classifier of the real pictures: it says which class a sample shows, and lends its features."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SmallConvNet(nn.Module):
    """Three convolutions and a global average: uint8 [B, C, H, W] -> features [B, 64] -> logits [B, K]."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, num_classes)
        self.num_features = 64  # torchmetrics asks for it

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images.float() / 127.5 - 1)  # [B, 64]


@dataclass(frozen=True)
class Classifier:
    """A trained network in evaluation mode; `digest` names its weights, `held_out_accuracy` what it is worth."""

    network: SmallConvNet
    digest: str
    held_out_accuracy: float

    @torch.no_grad()
    def predict(self, images: Tensor, batch_size: int = 512) -> Tensor:
        """Most likely class [N] of uint8 images [N, C, H, W]."""
        return torch.cat([self.network.head(self.network(part)).argmax(1) for part in images.split(batch_size)])

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Fraction of images seen as their label."""
        return float((self.predict(images) == labels).double().mean())


def train_classifier(
    train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], num_classes: int, cache: Path, steps: int = 600
) -> Classifier:
    """Train once on real (images uint8 [N, C, H, W], labels [N]); later calls with the same pictures read `cache`.

    AdamW with a one-cycle rate, batches of 128, random shifts by one pixel in 8. The same pictures give the same
    weights on the same machine.
    """
    images, labels = train
    network = SmallConvNet(images.shape[1], num_classes)
    content = hashlib.sha256(f"small-conv-net {num_classes} {steps}".encode())
    for tensor in (images, labels):
        content.update(tensor.contiguous().numpy().tobytes())
    file = cache / f"classifier-{content.hexdigest()[:16]}.pt"
    if file.is_file():
        network.load_state_dict(torch.load(file, weights_only=True))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _fit(network := SmallConvNet(images.shape[1], num_classes), images, labels, steps)
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        torch.save(network.state_dict(), temporary)
        temporary.replace(file)
    network.eval()
    classifier = Classifier(network, _digest(network), 0.0)
    return Classifier(network, classifier.digest, classifier.accuracy(*held_out))


def _fit(network: SmallConvNet, images: Tensor, labels: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    reach = max(1, images.shape[-1] // 8)
    for _ in range(steps):
        chosen = torch.randint(len(images), (128,))
        padded = F.pad(images[chosen].float(), [reach] * 4, mode="replicate")
        row, column = torch.randint(0, 2 * reach + 1, (2,)).tolist()
        shifted = padded[..., row : row + images.shape[-2], column : column + images.shape[-1]]
        loss = F.cross_entropy(network.head(network(shifted)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _digest(network: nn.Module) -> str:
    content = hashlib.sha256()
    for tensor in network.state_dict().values():
        content.update(tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:12]
