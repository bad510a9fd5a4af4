"""Real pictures, features and reference, found from a checkpoint or from keys; the rows of evaluate.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data import Pictures, Real, codec_from_spec, real_of_folder, real_of_split
from dit.checkpoint import Loaded
from dit.diffusion import Denoiser
from dit.evaluation import (
    SCORES,
    Classifier,
    Extractor,
    Measure,
    NpzImages,
    Reference,
    Row,
    Share,
    Source,
    alone,
    classifier_of,
    digest_of,
    labels_of,
    read_reference,
    reference_of,
)
from dit.solvers import Sampler

SPLITS = ("validation", "train")


def measure_of(
    options: Mapping[str, Any], extractor: Extractor | None, data: Pictures | None, device: torch.device
) -> Measure:
    """options: the keys of configs/evaluate.yaml; extractor: None for the classifier's own features; data: the labelled
    pictures, if there are any.

    Raises ValueError, in one sentence, for keys that do not go together.
    """
    names = list(SCORES) if options["scores"] is None else options["scores"]
    if unknown := [name for name in names if name not in SCORES]:
        raise ValueError(f"scores must be some of {', '.join(SCORES)}, got {unknown[0]!r}")
    if options["split"] not in SPLITS:
        raise ValueError(f"split must be {' or '.join(SPLITS)}, got {options['split']!r}")
    cache, limit = Path(options["cache"]), options["real_images"]
    splits: dict[str, Real] = {}
    if data is not None:
        data.prepare_data()
        data.setup()
        for name in SPLITS:
            splits[name] = real_of_split(f"{type(data).__name__.lower()} {name}", getattr(data, name), limit)
    with alone(cache):  # several processes, or trials, find what the first has made
        classifier = _classifier(splits, data, cache, device) if extractor is None or options["judge"] else None
        features = extractor or classifier
        assert features is not None
        reference = _reference(options["real"], splits.get(options["split"]), features.to(device), cache)
    return Measure(features, reference, classifier, names, options["replicates"])


def of_samples(
    options: Mapping[str, Any],
    measure: Measure,
    loaded: Loaded,
    sampler: Sampler,
    data: Pictures | None,
    share: Share,
) -> tuple[list[Row], dict[str, Any], Tensor | None]:
    """A row of real pictures, one for each of options["scales"], the protocol, and the first images of the last row; to
    be called by all processes. Only the first has rows."""
    scales = options["scales"] if isinstance(options["scales"], list) else [options["scales"]]
    guidances = [sampler.guidance if scale is None else sampler.guidance.with_scale(scale) for scale in scales]
    labels = labels_of(options["labels"], range(options["images"]), loaded.network.num_classes, sampler.seed)
    weak = {name: each.network for name, each in sampler.guidance.networks.items() if isinstance(each, Denoiser)}
    for network in weak.values():
        network.to(share.device)
    for guidance in guidances:
        guidance.check(loaded.denoiser, None if labels is None else torch.tensor(labels))
    codec = codec_from_spec(loaded.passport["data"]["normalisation"], options["vae"])
    digests = {name: digest_of(network) for name, network in {"model": loaded.network, **weak}.items()}
    identity = [digests, loaded.passport["path"], loaded.passport["kind"], codec.spec]
    parts = loaded.network.num_classes, loaded.shape, codec.decode, loaded.weights, loaded.step, identity
    source = Source(loaded.denoiser, options["labels"], *parts)
    rows, images = [], None
    if share.rank == 0 and data is not None and options["real"] is None:
        split = next(name for name in SPLITS if name != options["split"])
        other = real_of_split("real pictures", getattr(data, split), options["images"])
        rows.append(measure.of_pictures("real pictures", other.batches(), other.labels))
    for guidance in guidances:
        ours = replace(sampler, guidance=guidance), options["images"], Path(options["cache"]), share, options["shown"]
        if (made := measure.of_samples(source, *ours)) is not None:
            rows.append(made[0])
            images = made[1]
    return rows, measure.protocol(source, options["images"], sampler.seed), images


def of_pictures(options: Mapping[str, Any], measure: Measure) -> tuple[list[Row], dict[str, Any], None]:
    """The row of options["fake"], a folder or an .npz of the ADM suite."""
    fake = options["fake"]
    if fake.endswith(".npz"):
        images = NpzImages.open(Path(fake).expanduser())
        row = measure.of_pictures(images.file.name, images.batches(), images.labels)
    else:
        real = real_of_folder(fake)
        row = measure.of_pictures(real.name, real.batches(), real.labels)
    return [row], measure.protocol(None, row.images, None), None


def check_same(loaded: Loaded, data: Pictures | None) -> None:
    """ValueError where `data` are other pictures than the model was trained on."""
    if data is None:
        return
    for key in ("image_size", "channels", "class_names"):
        theirs, ours = data.facts[key], loaded.passport["data"][key]
        if theirs != ours:
            raise ValueError(f"the real pictures have {key}={theirs}, but the checkpoint was trained on {ours}")


def _classifier(splits: dict[str, Real], data: Pictures | None, cache: Path, device: torch.device) -> Classifier:
    if data is None or data.num_classes < 2:
        raise ValueError(
            "the classifier needs labelled pictures to learn from: those of a checkpoint of pixels trained here, or "
            "data=...; features=inception does without"
        )
    train, held_out = (splits[name] for name in ("train", "validation"))
    return classifier_of(train, held_out, data.num_classes, cache, device)


def _reference(real: str | None, split: Real | None, extractor: Extractor, cache: Path) -> Reference:
    if real is not None and real.endswith(".npz"):
        return read_reference(Path(real).expanduser(), extractor)
    held = split if real is None else real_of_folder(real)
    if held is None:
        raise ValueError(
            "real must name the real pictures, a folder or an .npz: the model is one of latents or came from elsewhere"
        )
    return reference_of(held.batches, held.name, held.digest, extractor, cache)
