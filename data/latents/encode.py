"""Making a cache: planned by whoever comes first, filled by any number of processes, finished by the last."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.latents import manifest
from data.latents.arrays import array_bytes, checksum
from data.latents.manifest import DTYPES, Manifest, Plan, Shard
from data.order import Pick
from data.pictures import Pictures
from data.split import Split
from dit.codec import Autoencoder


def make_plan(
    data: Pictures, autoencoder: Autoencoder, dtype: str, shard_size: int, source: dict[str, Any] | None = None
) -> Plan:
    """ValueError where the pictures, after `setup`, do not fit the autoencoder, or a cache."""
    channels, latent_channels = autoencoder.channels
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    crop = getattr(data, "crop", None)  # where pictures come in the right size there is none
    if crop == "random_resized":
        raise ValueError("data.crop must be center or area: a cache holds one square of each picture, not a random one")
    if data.channels != channels:
        raise ValueError(f"data.channels={data.channels}, but the autoencoder encodes pictures of {channels} channels")
    if data.image_size % autoencoder.factor:
        raise ValueError(f"data.image_size must be a multiple of {autoencoder.factor}, got {data.image_size}")
    splits = _splits(data)
    return Plan(
        vae=autoencoder.name,
        vae_hash=autoencoder.hash,
        picture_size=data.image_size,
        crop=crop,
        channels=latent_channels,
        latent_size=data.image_size // autoencoder.factor,
        scale=autoencoder.scale_and_shift[0],
        shift=autoencoder.scale_and_shift[1],
        dtype=dtype,
        class_names=data.class_names,
        shard_size=shard_size,
        counts={name: len(split) for name, split in splits.items()},
        labels={name: checksum(array_bytes(split.labels.numpy())) for name, split in splits.items()},
        pictures={name: _sample_checksum(split) for name, split in splits.items()},
        source=source or {},
    )


def begin(plan: Plan, data: Pictures, out: Path) -> None:
    """Makes `out` ready for the plan's shards, or finds that it is, which any number of processes may do at once.

    Raises ValueError where `out` holds another cache, saying what differs, or anything else, or has too little space.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = [file.name for file in out.iterdir()]  # listed before the plan is sought: another process may write it
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise ValueError(f"out={out} must be a folder to write to: {error.strerror}") from error
    there = manifest.read_plan(out)
    if there is None and (strange := sorted(f for f in files if not f.endswith((".tmp", "-labels.npy")))):
        raise ValueError(f"out={out} must be a new folder or that of a cache, but holds {strange[0]}")
    if there is not None and (different := plan.differences(there)):
        raise ValueError(f"out={out} holds another cache: {'; '.join(different)}")
    needed = sum(plan.size(shard) for shard in missing(plan, out))
    if needed > free:
        raise ValueError(f"out={out} has {free / 1e9:.1f} GB of free space, and {needed / 1e9:.1f} GB are needed")
    if there is None:
        for name, split in _splits(data).items():
            manifest.write_labels(out, name, split.labels.numpy())
        manifest.write_plan(out, plan)


def missing(plan: Plan, out: Path, rank: int = 0, world_size: int = 1) -> list[Shard]:
    """The shards that `rank` has still to make, of every world_size-th: nobody needs to know where others are."""
    there = manifest.present(out)
    return [shard for shard in list(plan.shards())[rank::world_size] if shard.name not in there]


def encode(
    shards: list[Shard],
    plan: Plan,
    data: Pictures,
    autoencoder: Autoencoder,
    out: Path,
    batch_size: int,
    device: torch.device,
) -> Iterator[int]:
    """Makes `shards`, yielding how many pictures have been encoded after each batch.

    Raises ValueError for a picture that cannot be read, or whose latents are too large for the plan's dtype.
    """
    for name, split in _splits(data).items():
        mine = [shard for shard in shards if shard.split == name]
        pieces = [
            (shard, range(start, min(start + batch_size, shard.first + shard.count)))
            for shard in mine
            for start in range(shard.first, shard.first + shard.count, batch_size)
        ]
        picks = [[Pick(index) for index in piece] for _, piece in pieces]
        loader = DataLoader(
            split, batch_sampler=picks, collate_fn=_images, num_workers=data.num_workers if pieces else 0
        )
        done: list[np.ndarray] = []
        for (shard, piece), images in zip(pieces, loader, strict=True):
            done.append(_moments(autoencoder, images.to(device), piece, plan, name))
            if piece.stop == shard.first + shard.count:
                try:
                    manifest.write_shard(out, shard, np.concatenate(done))
                except ValueError:
                    # The same command begun twice: the other one has made it, finished, and taken our file for left.
                    if shard.name not in manifest.present(out):
                        raise
                done = []
            yield len(piece)


def finish(plan: Plan, out: Path) -> Manifest | None:
    """Writes the manifest and returns it, or None while other processes are still making shards."""
    if missing(plan, out):
        return None
    there = manifest.present(out)
    entries = [shard.entry(there[shard.name]) for shard in plan.shards()]
    recorded = all(manifest.records_file(out, split).is_file() for split in manifest.SPLITS)
    if recorded and (out / manifest.MANIFEST).exists() and (made := Manifest.read(out)).shards == entries:
        return made
    per_channel, checks = _read_all(plan, out)
    normalisations = {"scalar": {"scale": plan.scale, "shift": plan.shift}, "per_channel": per_channel}
    records = {split: manifest.write_records(out, split, values) for split, values in checks.items()}
    made = Manifest(plan, entries, normalisations, records)
    made.write(out)
    # What killed processes left; another one may be writing the same manifest just now.
    for left in [out / manifest.PLAN, *out.glob(".*.npy.*.tmp")]:
        left.unlink(missing_ok=True)
    return made


def _splits(data: Pictures) -> dict[str, Split]:
    assert data.train is not None
    assert data.validation is not None
    return {"train": data.train, "validation": data.validation}


def _images(batch: Any) -> Tensor:
    return batch.images


def _moments(autoencoder: Autoencoder, images: Tensor, numbers: range, plan: Plan, split: str) -> np.ndarray:
    """[B, 2, 2C, h, w] of uint8 images [B, C, H, W] and their mirror images: the latents of these are no mirror images
    of those."""
    both = torch.stack([autoencoder.encode(images), autoencoder.encode(images.flip(-1))], dim=1)  # [B, 2, 2C, h, w]
    values = both.to(getattr(torch, plan.dtype)).cpu()  # [B, 2, 2C, h, w]
    if not (finite := values.isfinite().flatten(1).all(1)).all():
        bad = numbers[int((~finite).nonzero()[0])]
        hint = "" if plan.dtype == "float32" else "; dtype=float32 holds larger ones"
        raise ValueError(f"the latents of picture {bad} of the {split} split are not finite in {plan.dtype}{hint}")
    return values.numpy()


def _read_all(plan: Plan, out: Path) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """What makes each channel of the training latents, re-sampled and mirrored at random, mean 0 and variance 1; and
    of each split the CRC-32 of each record [2, 2C, h, w], uint32 [N]. Raises ValueError for a damaged shard."""
    there, count, total, square = manifest.present(out), 0, np.zeros(plan.channels), np.zeros(plan.channels)
    checks: dict[str, list[int]] = {split: [] for split in manifest.SPLITS}
    for shard in plan.shards():
        values = manifest.read_shard(out, plan, shard, there[shard.name])
        checks[shard.split] += map(crc32, values)
        if shard.split == "train":
            mean, log_variance = np.split(values.astype(np.float64), 2, axis=2)  # [n, 2, C, h, w]
            total += mean.sum(axis=(0, 1, 3, 4))
            square += (mean**2 + np.exp(log_variance)).sum(axis=(0, 1, 3, 4))
            count += mean.size // plan.channels
    shift = total / count
    normalisation = {"scale": ((square / count - shift**2) ** -0.5).tolist(), "shift": shift.tolist()}
    return normalisation, {split: np.array(found, np.uint32) for split, found in checks.items()}


def _sample_checksum(split: Split) -> str:
    """Of up to 16 squares, evenly spread: other pictures, another size or crop are found before anything is encoded."""
    some = np.linspace(0, len(split) - 1, min(16, len(split))).round().astype(int).tolist()
    return checksum(b"".join(split.read(number).numpy().tobytes() for number in some))
