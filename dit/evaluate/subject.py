"""Whose images are scored: samples of a checkpoint, made now, or pictures that are there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor

from data import Pictures, Real, real_of_folder
from data.split import Split
from dit.checkpoint import Model
from dit.checks import fits, printable
from dit.codec import LatentCodec, Pixels
from dit.diffusion import Denoiser
from dit.evaluate.choose import SPLITS, check_same, names_of
from dit.files import given_path, read_json
from dit.metrics import (
    Measure,
    NpzImages,
    Row,
    Share,
    Source,
    check_enough,
    check_told,
    digest_of,
    labels_of,
    networks_named,
)
from dit.output import PROTOCOL, SAMPLES, SHEET
from dit.solvers import Guidance, Sampler

_log = logging.getLogger(__name__)
Found = tuple[list[Row], dict[str, Any], Tensor | None]


@dataclass(frozen=True)
class Samples:
    """Of a checkpoint, a row for each of options["guidance_scales"], below one of real pictures of `data` that are not
    in the reference, as many and with the labels of the samples. facts: what the protocol says beside what a `Measure`
    knows; shape: (C, H, W) of the decoded images."""

    options: Mapping[str, Any]
    source: Source
    sampler: Sampler
    guidances: list[Guidance]
    facts: dict[str, Any]
    data: Pictures | None
    share: Share
    shape: tuple[int, ...]

    @staticmethod
    def of(options: Mapping[str, Any], loaded: Model, sampler: Sampler, data: Pictures | None, share: Share) -> Samples:
        """Raises ValueError for what this model cannot do, before anything is sampled."""
        check_same(loaded, data)
        scales = (
            options["guidance_scales"] if isinstance(options["guidance_scales"], list) else [options["guidance_scales"]]
        )
        guidances = [sampler.guidance if scale is None else sampler.guidance.with_scale(scale) for scale in scales]
        labels = labels_of(options["labels"], range(options["images"]), loaded.network.num_classes, sampler.seed)
        for weak in sampler.guidance.networks.values():
            if isinstance(weak, Denoiser):
                weak.network.to(share.device)
        for guidance in guidances:
            check_told(replace(sampler, guidance=guidance), share.size)
            guidance.check(loaded.denoiser, None if labels is None else torch.tensor(labels))
        codec = loaded.codec(options["vae"])
        computing = {
            **{key: options[key] for key in ("precision", "compile", "compile_mode", "batch_size")},
            "device": torch.device(share.device).type,
        }
        decoder = None if isinstance(codec, Pixels) else codec.autoencoder.hash
        kept = {key: getattr(loaded.metadata, key) for key in ("network", "path", "kind", "sigma_data", "adapters")}
        identity = [digest_of(loaded.network), kept, codec.spec, decoder, computing]
        parts = loaded.network.num_classes, loaded.shape, codec.decode, loaded.weights, loaded.step, identity
        source = Source(loaded.denoiser, options["labels"], *parts)
        facts = {"checkpoint": str(options["checkpoint"]), "normalisation": codec.spec, **computing}
        facts |= networks_named(sampler.guidance, options["guidance"])
        return Samples(options, source, sampler, guidances, facts, data, share, _decoded(codec, loaded.shape))

    def score(self, measure: Measure) -> Found:
        """The rows, the protocol, and the first images of the last row; to be called by all processes, of which only
        the first has rows."""
        options, share = self.options, self.share
        cache, count = given_path("cache", options["cache"]), options["images"]
        rows, images, facts = [], None, dict(self.facts)
        if share.rank == 0 and self.data is not None and options["real"] is None:
            split = next(name for name in SPLITS if name != options["split"])
            pictures: Split = getattr(self.data, split)
            labels = labels_of(options["labels"], range(count), self.source.num_classes, self.sampler.seed)
            numbers = _with_labels(pictures, labels, count)
            try:
                check_enough(measure.names, len(numbers), f"pictures of {split} with the labels of the samples")
            except ValueError as error:
                _log.warning(f"there is no row of real pictures: {error}")
            else:
                real = Real("real pictures", pictures, numbers)
                rows.append(measure.of_kept(real.name, real.digest, real.batches, real.labels, cache))
                rule = None if labels is None else options["labels"]
                facts["real_pictures"] = {"split": split, "images": len(numbers), "labels": rule}
        for guidance in self.guidances:
            sampler = replace(self.sampler, guidance=guidance)
            made = measure.of_samples(self.source, sampler, count, cache, share, options["shown"])
            if made is not None:
                rows.append(made[0])
                images = made[1]
        return rows, {**measure.protocol(self.source, count, self.sampler.seed), **facts}, images


@dataclass(frozen=True)
class Images:
    """Of a folder, or of a .npz of the ADM suite."""

    name: str
    held: Real | NpzImages
    labels: Tensor | None
    share: Share

    @staticmethod
    def of(options: Mapping[str, Any], data: Pictures | None, share: Share) -> Images:
        """Raises ValueError for what cannot be read. The subfolders of a folder are classes where they bear the names
        of the classes of `data`; of samples that sample.py wrote, samples.json tells."""
        fake, names = options["fake"], [] if data is None else data.facts["class_names"]
        folder = given_path("fake", fake)
        made = read_json(folder / PROTOCOL) if (folder / PROTOCOL).is_file() else None
        if made is not None and (folder / SAMPLES).is_file():
            fake = str(folder / SAMPLES)
        if fake.endswith(".npz"):
            held = NpzImages.open(Path(fake).expanduser())
            name, count, labels = held.file.name, held.count, held.labels
            if labels is not None and data is not None and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
                raise ValueError(
                    f"arr_1 of fake={fake} has labels {int(labels.min())} to {int(labels.max())}, but the data has "
                    f"{len(names)} classes"
                )
        else:
            labels = None if made is None else _labels_of(fake, made, names)
            held = real_of_folder(fake, names, "fake", () if made is None else (SHEET,), labels)
            name, count, labels = held.name, len(held), held.labels
        check_enough(names_of(options), count, f"pictures in fake={fake}")
        return Images(name, held, labels, share)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.held.shape

    def score(self, measure: Measure) -> Found:
        """One row, by the first process."""
        if self.share.rank > 0:
            return [], {}, None
        row = measure.of_pictures(self.name, self.held.batches(), self.labels)
        return [row], measure.protocol(None, row.images, None), None


def _labels_of(fake: str, made: Mapping[str, Any], names: Sequence[str]) -> list[int] | None:
    """The labels among the classes `names` of samples with this protocol; None where it has none, or others."""
    labels, theirs = made.get("labels"), made.get("class_names")
    if labels is None or not isinstance(theirs, list) or not fits(theirs, list[str]) or not set(theirs) <= set(names):
        return None
    if not fits(labels, list[Annotated[int, Interval(ge=0, lt=len(theirs))]]):
        raise ValueError(f"{PROTOCOL} of fake={printable(fake)} has labels of no class")
    return [names.index(theirs[label]) for label in labels]


def _with_labels(split: Split, labels: Sequence[int] | None, count: int) -> list[int]:
    """Numbers of pictures with these labels, in their order, each class in a fixed shuffle; up to the first label of
    which there is no other picture. Without labels `count` of any."""
    if labels is None:
        return split.some(count)
    waiting: dict[int, list[int]] = {}
    for number in torch.randperm(len(split), generator=torch.Generator().manual_seed(0)).tolist():
        waiting.setdefault(int(split.labels[number]), []).append(number)
    found: list[int] = []
    for label in labels:
        if not waiting.get(label):
            break
        found.append(waiting[label].pop())
    return found


def _decoded(codec: Pixels | LatentCodec, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """(C, H, W) of the pictures that samples of (C, H, W) become. ValueError where the codec cannot take them."""
    if isinstance(codec, Pixels):
        return shape
    colours, wanted = codec.autoencoder.channels
    if wanted != shape[0]:
        raise ValueError(
            f"vae={codec.vae} decodes latents of {wanted} channels, but those of this model have {shape[0]}"
        )
    return colours, *(side * codec.autoencoder.factor for side in shape[1:])
