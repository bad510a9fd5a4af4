"""What a cache says of itself, and how its files are named.

A cache is a folder of plan.json while it is made and manifest.json when it is complete, the labels of each split, the
CRC-32 of each record, and shards: arrays [n, 2, 2C, h, w] of consecutive pictures, first as they are and then mirrored,
mean before log-variance. A shard's checksum is part of its name. Every file appears under its name when all of it is on
the disk. What is read must be what the plan implies: no file says which other file is opened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from data.latents.arrays import array_bytes, checksum, read_array, write
from dit.checks import check_arguments, check_whole, fits, printable, shown
from dit.files import given_path, read_json, write_json

SCHEMA = 1
PLAN, MANIFEST = "plan.json", "manifest.json"
SPLITS = ("train", "validation")
DTYPES = ("float16", "float32")

_MOST = 1 << 30  # pictures of a split
_SHARD = re.compile(r"((?:train|validation)-[0-9]{5,10})\.([0-9a-f]{16})\.npy")

T = TypeVar("T")


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

    def entry(self, digest: str) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"file": f"{self.name}.{digest}.npy", "checksum": digest, "count": self.count}


@dataclass(frozen=True)
class Plan:
    """What decides every number of a cache, but for `vae` and `source`, which say where things were.

    vae, vae_hash: the autoencoder and the hash of its weights; picture_size, crop: of the squares that were encoded;
    channels, latent_size: of the latents; scale, shift: as the autoencoder was released; counts, labels, pictures: of
    each split the number of pictures and checksums of all labels and of some squares; source: the configuration of the
    pictures.

    Raises ValueError for numbers and names that no cache has.
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

    def __post_init__(self) -> None:
        for key in ("picture_size", "channels", "latent_size", "shard_size"):
            check_whole(key, getattr(self, key), 1, _MOST)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {shown(self.dtype)}")
        if self.scale == 0:
            raise ValueError("scale must not be 0")
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names must be different ones, got {shown(self.class_names)}")
        if self.counts.keys() != set(SPLITS):
            raise ValueError(f"counts must be of {' and '.join(SPLITS)}, got {shown(self.counts)}")
        for split, count in self.counts.items():
            check_whole(f"counts.{split}", count, 1, _MOST)
        for key in ("labels", "pictures"):
            _check_digests(key, getattr(self, key))

    @classmethod
    def of(cls, content: Any) -> Plan:
        """What a file says. Raises ValueError for what is no plan of this version."""
        if not isinstance(content, dict):
            raise ValueError(f"its plan must be an object, got {shown(content)}")
        if (schema := content.get("schema")) != SCHEMA:
            raise ValueError(f"this cache has schema {shown(schema)}, this version reads {SCHEMA}; make it anew")
        check_arguments("its plan", cls, content)
        return cls(**content)

    def differences(self, there: Plan) -> list[str]:
        """A phrase for each thing that is otherwise in `there`."""
        keys = [field.name for field in fields(self) if field.name not in ("vae", "source")]
        pairs = [(key, getattr(there, key), getattr(self, key)) for key in keys]
        return [
            f"{key} is {printable(str(theirs))} there and {mine} here" for key, theirs, mine in pairs if theirs != mine
        ]

    def shards(self) -> Iterator[Shard]:
        for split in SPLITS:
            for number in range(self.shards_of(split)):
                first = number * self.shard_size
                yield Shard(split, number, first, min(self.shard_size, self.counts[split] - first))

    def shards_of(self, split: str) -> int:
        return math.ceil(self.counts[split] / self.shard_size)

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
    the training pictures; each has `scale` and `shift`, see `LatentCodec`. records: of each split the checksum of the
    file with the CRC-32 of each record; None where a cache was made without.

    Raises ValueError for what does not fit the plan.
    """

    plan: Plan
    shards: list[dict[str, Any]]
    normalisations: dict[str, dict[str, Any]]
    records: dict[str, str] | None = None

    def __post_init__(self) -> None:
        expected = sum(map(self.plan.shards_of, SPLITS))
        if not fits(self.shards, list[dict[str, Any]]) or len(self.shards) != expected:
            raise ValueError(f"shards must be a list of {expected:,} mappings, got {shown(self.shards)}")
        for shard, entry in self.files():
            if not _is_digest(entry.get("checksum")) or entry != shard.entry(entry["checksum"]):
                raise ValueError(f"a shard must be {shard.entry('CHECKSUM')}, got {shown(entry)}")
        if not isinstance(self.normalisations, dict) or self.normalisations.keys() != {"scalar", "per_channel"}:
            raise ValueError(f"normalisations must be scalar and per_channel, got {shown(self.normalisations)}")
        for name, how in self.normalisations.items():
            count = None if name == "scalar" else self.plan.channels
            if not isinstance(how, dict) or how.keys() != {"scale", "shift"} or not _are_numbers(how, count):
                many = "a number" if count is None else f"{count} numbers"
                raise ValueError(f"normalisations.{name} must have scale, not 0, and shift, {many}, got {shown(how)}")
        if self.records is not None:
            _check_digests("records", self.records)

    @staticmethod
    def read(root: str | Path, key: str = "data.root") -> Manifest:
        """Raises ValueError, naming the key that said `root`, if there is no complete cache of this version, or its
        manifest is not what was written."""
        root = given_path(key, root)
        said = printable(str(root))
        if not (root / MANIFEST).is_file():
            if (plan := read_plan(root)) is not None:
                made = [name.split("-") for name in present(root)]
                there = sum(int(number) < plan.shards_of(split) for split, number in made)
                raise ValueError(
                    f"{key}={said} is an unfinished cache, {there} of {sum(map(plan.shards_of, SPLITS))} shards; "
                    "the command that began it goes on where it stopped"
                )
            raise ValueError(f"{key}={said} must be a cache made by python -m data.latents: no {MANIFEST} there")
        return _read(root / MANIFEST, _manifest)

    def write(self, root: Path) -> None:
        write_json(root / MANIFEST, asdict(self), sealed=True)

    def files(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        yield from zip(self.plan.shards(), self.shards, strict=True)


def read_plan(root: Path) -> Plan | None:
    """Of a cache, finished or not; None where there is none."""
    if (root / MANIFEST).is_file():
        return Manifest.read(root).plan
    return _read(root / PLAN, Plan.of) if (root / PLAN).is_file() else None


def write_plan(root: Path, plan: Plan) -> None:
    write_json(root / PLAN, asdict(plan), sealed=True)


def read_labels(root: Path, plan: Plan, split: str) -> np.ndarray:
    """int64 [N]. Raises ValueError if they are not those of the plan."""
    cure = "the cache must be made anew, or the file brought back"
    labels = read_array(root / f"{split}-labels.npy", "int64", [plan.counts[split]], plan.labels[split], cure)
    if labels.min() < 0 or labels.max() >= len(plan.class_names):
        raise ValueError(f"data.root={printable(str(root))}: {split}-labels.npy has labels of no class; {cure}")
    return labels.copy()


def write_labels(root: Path, split: str, labels: np.ndarray) -> None:
    write(root / f"{split}-labels.npy", array_bytes(labels))


def records_file(root: Path, split: str) -> Path:
    return root / f"{split}-records.npy"


def read_records(root: Path, made: Manifest, split: str) -> np.ndarray | None:
    """The CRC-32 of each record, uint32 [N]; None of a cache without. Raises ValueError if they are not those of the
    manifest."""
    if made.records is None:
        return None
    cure = "delete it if it is there, and run the command that made the cache: it makes only what is missing"
    return read_array(records_file(root, split), "uint32", [made.plan.counts[split]], made.records[split], cure)


def write_records(root: Path, split: str, records: np.ndarray) -> str:
    """Returns their checksum."""
    write(records_file(root, split), content := array_bytes(records))
    return checksum(content)


def read_shard(root: Path, plan: Plan, shard: Shard, digest: str) -> np.ndarray:
    """All of it, [n, 2, 2C, h, w]. Raises ValueError if it is not what its name says."""
    cure = "delete it and make the cache again: nothing else is redone"
    return read_array(root / shard.entry(digest)["file"], plan.dtype, plan.shape(shard), digest, cure)


def write_shard(root: Path, shard: Shard, values: np.ndarray) -> None:
    content = array_bytes(values)
    write(root / shard.entry(checksum(content))["file"], content)


def present(root: Path) -> dict[str, str]:
    """The checksums of all shards that are there, by name."""
    names = sorted((file.name for file in root.glob("*-*.*.npy")), reverse=True)
    return {match[1]: match[2] for name in names if (match := _SHARD.fullmatch(name))}


def _manifest(content: dict[str, Any]) -> Manifest:
    plan = Plan.of(content.pop("plan", None))
    known = {"shards", "normalisations", "records"}
    if not {"shards", "normalisations"} <= content.keys() <= known:
        raise ValueError(f"it must have plan, {', '.join(sorted(known))}, got {shown(['plan', *content])}")
    return Manifest(plan, **content)


def _read(file: Path, build: Callable[[dict[str, Any]], T]) -> T:
    """What `build` makes of the JSON in `file`."""
    content = read_json(file)
    try:
        return build(content)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{printable(str(file))} is damaged or of another version: {reason}") from error


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None


def _check_digests(key: str, value: Any) -> None:
    if not isinstance(value, dict) or value.keys() != set(SPLITS) or not all(map(_is_digest, value.values())):
        raise ValueError(f"{key} must be the checksums of {' and '.join(SPLITS)}, got {shown(value)}")


def _are_numbers(how: dict[str, Any], count: int | None) -> bool:
    """Whether a normalisation holds a number each, or `count` of them, of which none of `scale` is 0."""
    if count is None:
        return all(fits(value, float) for value in how.values()) and how["scale"] != 0
    return all(fits(value, list[float]) and len(value) == count for value in how.values()) and 0 not in how["scale"]
