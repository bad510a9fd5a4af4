"""Real pictures, features and reference, found from a checkpoint or from keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from data import Pictures, Real, pictures_from_spec, real_of_folder, real_of_split
from dit.checkpoint import Model
from dit.files import given_path
from dit.metrics import (
    SCORES,
    Classifier,
    Extractor,
    Measure,
    NpzImages,
    Reference,
    alone,
    check_enough,
    classifier_of,
    npz_keys,
    read_reference,
    reference_of,
)

SPLITS = ("validation", "train")


def check_keys(options: Mapping[str, Any]) -> None:
    """ValueError for keys of configs/evaluate.yaml that do not go together, before anything is loaded."""
    if (options["checkpoint"] is None) == (options["fake"] is None):
        raise ValueError("either checkpoint or fake must say whose images are scored, and not both")
    if options["guidance_scales"] == []:
        raise ValueError("guidance_scales must name at least one guidance scale, or be null, got []")
    names = names_of(options)
    if options["checkpoint"] is not None:
        check_enough(names, options["images"], "images")


def names_of(options: Mapping[str, Any]) -> Sequence[str]:
    """The metrics that are wanted, all of them by default. ValueError for a name that is none."""
    given = options["metrics"]
    names = list(SCORES) if given is None else [given] if isinstance(given, str) else given
    if not names:
        raise ValueError(f"metrics must name some of {', '.join(SCORES)}, or be null for all, got []")
    if unknown := [name for name in names if name not in SCORES]:
        raise ValueError(f"metrics must be some of {', '.join(SCORES)}, got {unknown[0]!r}")
    return names


def given_pictures(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The node `data` of the user's own configuration, with `data_root` for its root; None where it is not given."""
    given = options["data"] if "data" in options else None  # noqa: SIM401 configurations are not asked by get
    moved = {} if options["data_root"] is None else {"root": options["data_root"]}
    return given and {**given, **moved}


def pictures_of(options: Mapping[str, Any], loaded: Model | None) -> Pictures | None:
    """The labelled real pictures of a model: those it was trained on, as its checkpoint says.

    None where there are none, and `real` names pictures to score against; ValueError where it does not.
    """
    if loaded is None:
        return None
    try:
        spec = loaded.pictures
    except ValueError:
        if options["real"] is None:
            raise
        return None
    return pictures_from_spec(spec, options["data_root"])


def measure_of(
    options: Mapping[str, Any],
    extractor: Extractor | None,
    data: Pictures | None,
    device: torch.device | str,
    shape: tuple[int, ...] | None = None,
) -> Measure:
    """options: the keys of configs/evaluate.yaml; extractor: None for the classifier's own features; data: the labelled
    pictures, if there are any; shape: [C, H, W] of the images that will be scored, if it is known.

    Raises ValueError, in one sentence, for keys that do not go together, and before anything is trained or computed for
    pictures that the classifier or the scores cannot take.
    """
    names = names_of(options)
    if options["split"] not in SPLITS:
        raise ValueError(f"split must be {' or '.join(SPLITS)}, got {options['split']!r}")
    cache, limit = given_path("cache", options["cache"]), options["real_images"]
    real, judged = _real(options["real"]), extractor is None or options["judge"]
    if judged and (data is None or data.num_classes < 2):
        raise ValueError(
            "the classifier needs labelled pictures to learn from: those of a checkpoint of pixels trained here, or "
            "data=...; features=inception does without"
        )
    splits: dict[str, Real] = {}
    if data is not None:
        data.prepare_data()
        data.setup()
        for name in SPLITS:
            splits[name] = real_of_split(f"{type(data).__name__.lower()} {name}", getattr(data, name), limit)
        theirs = {"images to score": shape if judged else None, "real": _shape(real) if extractor is None else None}
        for key, form in theirs.items():
            _check_form(key, form, (data.channels, data.image_size, data.image_size))
    if real is None and not splits:
        raise ValueError("real must name the real pictures, a folder or an .npz, or data labelled ones")
    with alone(cache):  # several processes, or trials, find what the first has made
        classifier = _classifier(splits, data, cache, device) if data is not None and judged else None
        features = extractor or classifier
        assert features is not None
        features.to(device)
        if isinstance(real, Path):
            reference = read_reference(real, features, cache=cache)
            _check_moments(reference, features, classifier)
        else:
            real = real or splits[options["split"]]
            reference = reference_of(real.batches, real.name, real.digest, features, cache)
    if reference.pooled is not None:
        compared = [name for name in names if name != "inception_score"]
        check_enough(compared, len(reference.pooled), f"pictures in the reference {reference.name}")
    return Measure(features, reference, classifier, names, options["replicates"])


def check_same(loaded: Model, data: Pictures | None) -> None:
    """ValueError where `data` are other pictures than the model was trained on, or, of latents, other classes."""
    if data is None:
        return
    ours = loaded.metadata
    sizes = () if ours.codec["name"] == "Latents" else ("image_size", "channels")
    for key in (*sizes, "class_names"):
        if data.facts[key] != getattr(ours, key):
            raise ValueError(
                f"the real pictures have {key}={data.facts[key]}, but the checkpoint was trained on "
                f"{getattr(ours, key)}"
            )


def _real(name: str | None) -> Path | Real | None:
    """A .npz that can be read, or a folder of pictures."""
    if name is None or not name.endswith(".npz"):
        return None if name is None else real_of_folder(name)
    file = Path(name).expanduser()
    npz_keys(file)
    return file


def _shape(real: Path | Real | None) -> tuple[int, ...] | None:
    if isinstance(real, Path):
        return NpzImages.open(real).shape if "arr_0" in npz_keys(real) else None
    return None if real is None else real.shape


def _check_form(key: str, shape: tuple[int, ...] | None, wanted: tuple[int, ...]) -> None:
    if shape is not None and shape != wanted:
        theirs, ours = ("x".join(map(str, form)) for form in (shape, wanted))
        raise ValueError(
            f"{key}: pictures of {theirs} (channels, height, width), but the classifier learns from those of {ours}; "
            "features=inception takes any"
        )


def _check_moments(reference: Reference, extractor: Extractor, classifier: Classifier | None) -> None:
    """That they have the width of the features, which is all they tell of their network."""
    shape = classifier.shape if classifier is not None and classifier is extractor else (3, 64, 64)
    width = extractor(torch.zeros(1, *shape, dtype=torch.uint8)).pooled.shape[1]
    if len(reference.moments.mean) != width:
        raise ValueError(
            f"mu of {reference.name} has {len(reference.moments.mean)} features, but {extractor.name} has {width}"
        )


def _classifier(splits: dict[str, Real], data: Pictures, cache: Path, device: torch.device | str) -> Classifier:
    train, held_out = (splits[name] for name in ("train", "validation"))
    return classifier_of(train, held_out, data.num_classes, cache, device)
