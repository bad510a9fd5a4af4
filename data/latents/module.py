"""The data module that trains on a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.autoencoder import Autoencoder, LatentCodec
from data.latents.manifest import Manifest, Shard, read_labels
from data.order import Pick
from data.pictures import Pictures
from data.split import Split


class CachedSplit(Split):
    """Latents [C, h, w] of one split, read from memory-mapped shards.

    A pick with a `draw` is sampled from the posterior, anew for each draw; one without is its mean. A mirrored pick is
    the latents of the mirrored picture.
    """

    def __init__(self, root: Path, files: list[Path], labels: Tensor, shard_size: int):
        self.root, self._files, self.labels, self._shard_size = root, files, labels, shard_size
        self._maps: dict[int, np.ndarray] = {}

    def images(self, picks: Sequence[Pick]) -> Tensor:
        """float32 [B, C, h, w]."""
        moments = torch.from_numpy(np.stack([self._record(pick) for pick in picks])).float()  # [B, 2C, h, w]
        mean, log_variance = moments.chunk(2, dim=1)  # [B, C, h, w] each
        noise = torch.stack([_noise(pick.draw, mean.shape[1:]) for pick in picks])  # [B, C, h, w]
        return mean.addcmul(log_variance.mul(0.5).exp(), noise)  # [B, C, h, w]

    def _record(self, pick: Pick) -> np.ndarray:
        number, place = divmod(pick.index, self._shard_size)
        if number not in self._maps:
            self._maps[number] = _mapped(self._files[number])
        return self._maps[number][place, int(pick.mirrored)]  # [2C, h, w]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a worker maps the files itself


def _mapped(file: Path) -> np.ndarray:
    # A map of numpy's keeps a file open, and ImageNet has more shards than a process may have open files.
    array = np.load(file, mmap_mode="r")
    content = torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)
    return np.ndarray(array.shape, array.dtype, content.numpy(), array.offset)


def _noise(draw: int | None, shape: Sequence[int]) -> Tensor:
    if draw is None:
        return torch.zeros(*shape)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(draw))


class Latents(Pictures):
    """Latents cached by `python -m data.latents` in the folder root; image_size and channels are theirs.

    normalisation: "scalar", the factor and shift the autoencoder was released with, or "per_channel", mean 0 and
    variance 1 of each channel of the training pictures. vae: the autoencoder that decodes previews, where it is not
    where the cache says; another one is refused.
    """

    storages = ("disk",)
    augmentable = False

    def __init__(
        self, root: str, channels: int, normalisation: str = "scalar", vae: str | None = None, **pictures: Any
    ):
        super().__init__(channels=channels, **pictures)
        self.root, self.manifest = Path(root).expanduser(), Manifest.read(root)
        plan, known = self.manifest.plan, self.manifest.normalisations
        asked = {"image_size": self.image_size, "channels": channels, "num_classes": self.num_classes}
        there = {"image_size": plan.latent_size, "channels": plan.channels, "num_classes": len(self.class_names)}
        different = [f"data.{key}={asked[key]}, there {there[key]}" for key in asked if asked[key] != there[key]]
        if normalisation not in known:
            different.append(f"data.normalisation={normalisation}, there {' or '.join(known)}")
        if vae is not None and (found := Autoencoder(vae).hash) != plan.vae_hash:
            different.append(f"the weights of data.vae={vae} have the hash {found}, there {plan.vae_hash} ({plan.vae})")
        if different:
            raise ValueError(f"the cache data.root={root} is another than asked for: {'; '.join(different)}")
        self.codec = LatentCodec(
            plan.vae if vae is None else str(vae), **known[normalisation], vae_hash=plan.vae_hash, fetch=vae is not None
        )

    @property
    def all_class_names(self) -> list[str]:
        return self.manifest.plan.class_names

    def load(self) -> tuple[CachedSplit, CachedSplit]:
        return self._split("train"), self._split("validation")

    def _split(self, name: str) -> CachedSplit:
        plan = self.manifest.plan
        files = [self._file(shard, entry["file"]) for shard, entry in self.manifest.files() if shard.split == name]
        labels = torch.from_numpy(read_labels(self.root, plan, name))
        return CachedSplit(self.root, files, labels, plan.shard_size)

    def _file(self, shard: Shard, name: str) -> Path:
        file, least = self.root / name, self.manifest.plan.size(shard)
        if not file.is_file() or file.stat().st_size < least:
            state = "cut short" if file.is_file() else "missing"
            raise ValueError(
                f"data.root={self.root}: the shard {name} is {state}; delete it if it is there, and run the command "
                "that made the cache: it makes only what is missing"
            )
        return file
