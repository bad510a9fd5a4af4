"""The data module that trains on a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from data.latents.arrays import array_in, checksum, fits_size
from data.latents.manifest import SPLITS, Manifest, read_labels, read_records
from data.order import Pick
from data.pictures import Pictures
from data.split import Split
from dit.checks import printable
from dit.codec import Autoencoder, LatentCodec
from dit.files import given_path


class CachedSplit(Split):
    """Latents [C, h, w] of one split, read from memory-mapped shards.

    A pick with a `draw` is sampled from the posterior, anew for each draw; one without is its mean. A mirrored pick is
    the latents of the mirrored picture. A record is checked each time it is read; where a cache was made without
    CRC-32s of its records, a shard is checked as a whole when it is first mapped.

    Raises ValueError for a shard that is not what was written.
    """

    def __init__(self, root: Path, made: Manifest, split: str):
        self.root, self._plan = root, made.plan
        self._shards = [shard for shard in made.plan.shards() if shard.split == split]
        self._digests = [entry["checksum"] for shard, entry in made.files() if shard.split == split]
        self.labels = torch.from_numpy(read_labels(root, made.plan, split))
        self._records = read_records(root, made, split)
        self._maps: dict[int, np.ndarray] = {}
        for number, file in enumerate(self._files):
            if not file.is_file() or not fits_size(file, self._plan.dtype, self._plan.shape(self._shards[number])):
                self._refuse(number, "not of its length" if file.is_file() else "missing")

    @property
    def _files(self) -> list[Path]:
        pairs = zip(self._shards, self._digests, strict=True)
        return [self.root / shard.entry(digest)["file"] for shard, digest in pairs]

    def images(self, picks: Sequence[Pick]) -> Tensor:
        """float32 [B, C, h, w]."""
        moments = torch.from_numpy(np.stack([self._record(pick) for pick in picks])).float()  # [B, 2C, h, w]
        mean, log_variance = moments.chunk(2, dim=1)  # [B, C, h, w] each
        noise = torch.stack([_noise(pick.draw, mean.shape[1:]) for pick in picks])  # [B, C, h, w]
        return mean.addcmul(log_variance.mul(0.5).exp(), noise)  # [B, C, h, w]

    def _record(self, pick: Pick) -> np.ndarray:
        number, place = divmod(pick.index, self._plan.shard_size)
        if number not in self._maps:
            self._maps[number] = self._mapped(number)
        record = self._maps[number][place]  # [2, 2C, h, w]
        if self._records is not None and crc32(record) != self._records[pick.index]:
            self._refuse(number, f"damaged at picture {place}")
        return record[int(pick.mirrored)]  # [2C, h, w]

    def _mapped(self, number: int) -> np.ndarray:
        shard, digest = self._shards[number], self._digests[number]
        file = self.root / shard.entry(digest)["file"]
        try:
            # A map of numpy's keeps a file open, and ImageNet has more shards than a process may have open files.
            content = torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8).numpy()
        except (OSError, RuntimeError):
            self._refuse(number, "gone")
        if self._records is None and checksum(content) != digest:
            self._refuse(number, "damaged: its checksum is another")
        if (values := array_in(content, self._plan.dtype, self._plan.shape(shard))) is None:
            self._refuse(number, "damaged at its header")
        return values

    def _refuse(self, number: int, state: str) -> NoReturn:
        name = self._shards[number].entry(self._digests[number])["file"]
        raise ValueError(
            f"data.root={printable(str(self.root))}: the shard {name} is {state}; delete it if it is there, and run "
            "the command that made the cache: it makes only what is missing"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a worker maps the files itself


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
        self.root, self.manifest = given_path("data.root", root), Manifest.read(root)
        plan, known = self.manifest.plan, self.manifest.normalisations
        asked = {"image_size": self.image_size, "channels": channels, "num_classes": self.num_classes}
        there = {"image_size": plan.latent_size, "channels": plan.channels, "num_classes": len(self.class_names)}
        different = [f"data.{key}={asked[key]}, there {there[key]}" for key in asked if asked[key] != there[key]]
        if not isinstance(normalisation, str) or normalisation not in known:
            different.append(f"data.normalisation={printable(str(normalisation))}, there {' or '.join(known)}")
        if vae is not None and (found := Autoencoder(vae).hash) != plan.vae_hash:
            different.append(
                f"the weights of data.vae={vae} have the hash {found}, there {plan.vae_hash} ({printable(plan.vae)})"
            )
        if different:
            raise ValueError(f"the cache data.root={root} is another than asked for: {'; '.join(different)}")
        self.codec = LatentCodec(
            plan.vae if vae is None else str(vae), **known[normalisation], vae_hash=plan.vae_hash, fetch=vae is not None
        )

    @property
    def all_class_names(self) -> list[str]:
        return self.manifest.plan.class_names

    @property
    def picture_bytes(self) -> int:
        return 4 * super().picture_bytes  # in float32

    def load(self) -> tuple[CachedSplit, CachedSplit]:
        train, validation = (CachedSplit(self.root, self.manifest, split) for split in SPLITS)
        return train, validation
