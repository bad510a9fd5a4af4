"""What a cache says of itself, and how its files are named, written and checked.

A cache is a folder of plan.json while it is made and manifest.json when it is complete, the labels of each split, and
shards: arrays [n, 2, 2C, h, w] of consecutive pictures, first as they are and then mirrored, mean before log-variance.
A file's checksum is part of its name. Every file appears under its name when all of it is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

SCHEMA = 1
PLAN, MANIFEST = "plan.json", "manifest.json"
SPLITS = ("train", "validation")


class Shard(NamedTuple):
    """Pictures first ... first + count - 1 of a split."""

    split: str
    number: int
    first: int
    count: int

    @property
    def name(self) -> str:
        """Of its file, but for the checksum."""
        return f"{self.split}-{self.number:05d}"


@dataclass(frozen=True)
class Plan:
    """What decides every number of a cache, but for `vae` and `source`, which say where things were.

    vae, vae_hash: the autoencoder and the hash of its weights; picture_size, crop: of the squares that were encoded;
    channels, latent_size: of the latents; scale, shift: as the autoencoder was released; counts, labels, pictures: of
    each split the number of pictures and checksums of all labels and of some squares; source: the configuration of the
    pictures.
    """

    vae: str
    vae_hash: str
    picture_size: int
    crop: str | None
    channels: int
    latent_size: int
    scale: float
    shift: float
    dtype: str
    class_names: list[str]
    shard_size: int
    counts: dict[str, int]
    labels: dict[str, str]
    pictures: dict[str, str]
    source: dict[str, Any]
    schema: int = SCHEMA

    def differences(self, there: Plan) -> list[str]:
        """A phrase for each thing that is otherwise in `there`."""
        keys = [field.name for field in fields(self) if field.name not in ("vae", "source")]
        pairs = [(key, getattr(there, key), getattr(self, key)) for key in keys]
        return [f"{key} is {theirs} there and {mine} here" for key, theirs, mine in pairs if theirs != mine]

    def shards(self) -> Iterator[Shard]:
        for split in SPLITS:
            for number in range(math.ceil(self.counts[split] / self.shard_size)):
                first = number * self.shard_size
                yield Shard(split, number, first, min(self.shard_size, self.counts[split] - first))

    def shape(self, shard: Shard) -> tuple[int, ...]:
        """[n, 2, 2C, h, w]."""
        return shard.count, 2, 2 * self.channels, self.latent_size, self.latent_size

    def size(self, shard: Shard) -> int:
        """Bytes of its values; the file has a header of some more."""
        return math.prod(self.shape(shard)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Manifest:
    """A complete cache: its plan, the file and checksum of each shard, and two ways to normalise its latents.

    normalisations: "scalar" as the autoencoder was released, "per_channel" to mean 0 and variance 1 of each channel of
    the training pictures; each has `scale` and `shift`, see `LatentCodec`.
    """

    plan: Plan
    shards: list[dict[str, Any]]
    normalisations: dict[str, dict[str, Any]]

    @staticmethod
    def read(root: str | Path) -> Manifest:
        """ValueError where there is no complete cache of this version."""
        root = Path(root).expanduser()
        if not (root / MANIFEST).is_file():
            if (plan := read_plan(root)) is not None:
                all_of_it, there = [shard.name for shard in plan.shards()], present(root)
                raise ValueError(
                    f"data.root={root} is an unfinished cache, {sum(name in there for name in all_of_it)} of "
                    f"{len(all_of_it)} shards; the command that began it goes on where it stopped"
                )
            raise ValueError(f"data.root={root} must be a cache made by python -m data.latents: no {MANIFEST} there")
        content = _json(root / MANIFEST, "plan", "shards", "normalisations")
        return Manifest(_plan(content["plan"], root / MANIFEST), content["shards"], content["normalisations"])

    def write(self, root: Path) -> None:
        write(root / MANIFEST, _dump(asdict(self)))

    def files(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        yield from zip(self.plan.shards(), self.shards, strict=True)


def read_plan(root: Path) -> Plan | None:
    """Of a cache, finished or not; None where there is none."""
    if (root / MANIFEST).is_file():
        return Manifest.read(root).plan
    return _plan(_json(root / PLAN), root / PLAN) if (root / PLAN).is_file() else None


def read_labels(root: Path, plan: Plan, split: str) -> np.ndarray:
    """int64 [N]. ValueError where they are not those of the plan."""
    content = file.read_bytes() if (file := root / f"{split}-labels.npy").is_file() else b""
    if checksum(content) != plan.labels[split]:
        state = "damaged: its checksum is another" if content else "missing"
        raise ValueError(f"{file} is {state}; the cache must be made anew, or the file brought back")
    return np.load(BytesIO(content))


def write_plan(root: Path, plan: Plan) -> None:
    write(root / PLAN, _dump(asdict(plan)))


def write_shard(root: Path, shard: Shard, values: np.ndarray) -> None:
    content = array_bytes(values)
    write(root / f"{shard.name}.{checksum(content)}.npy", content)


def present(root: Path) -> dict[str, Path]:
    """The files of all shards that are there, by name."""
    return {file.name.split(".")[0]: file for file in sorted(root.glob("*-*.*.npy"), reverse=True)}


def array_bytes(values: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def write(file: Path, content: bytes) -> None:
    """Under a temporary name, onto the disk, then renamed: a reader finds all of it or nothing."""
    # Not the process number: in containers on different machines it is often the same.
    temporary = file.with_name(f".{file.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(file)
    except OSError as error:
        raise ValueError(f"{file} cannot be written: {error.strerror}; what is there already stays good") from error
    finally:
        temporary.unlink(missing_ok=True)


def _dump(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _json(file: Path, *keys: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict) or not content.keys() >= {*keys}:
        raise ValueError(f"{file} is damaged: {', '.join(keys)} must be in it")
    return content


def _plan(content: dict[str, Any], file: Path) -> Plan:
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(f"this cache has schema {content['schema']}, this version reads {SCHEMA}; make it anew")
        return Plan(**content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: its plan is none") from error
