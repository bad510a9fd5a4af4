"""Checkpoints of others, as ours: with everything that sampling needs and their files do not say."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dit.checkpoint import diffusers
from dit.checkpoint.loading import AS_GIVEN, Model, build, check_weights
from dit.checkpoint.metadata import Metadata
from dit.checkpoint.reference import FAMILIES, as_written, convert, read_weights
from dit.checkpoint.settings import published_jit, read_meaning
from dit.checkpoint.shapes import Hints
from dit.checkpoint.sources import SOURCES
from dit.diffusion import Denoiser, DiscreteVP, GaussianPath
from dit.model import DiT, class_of

_SD_SCALE = 0.18215  # scaling factor of Stable Diffusion's autoencoder ...
_OF_SD = ("dit", "sit", "repa")  # ... in whose latents these were trained


def import_checkpoint(file: str | Path, source: str, **told: Any) -> Denoiser:
    """The denoiser of somebody else's checkpoint, with its `network`, ready for `dit.solvers.sample`; arguments and
    errors are those of `import_loaded`."""
    return import_loaded(file, source, **told).denoiser


def import_loaded(
    file: str | Path,
    source: str,
    *,
    weights: str = "ema",
    num_heads: int | None = None,
    num_classes: int | None = None,
    class_tokens_from: int | None = None,
    class_names: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Model:
    """The network of somebody else's checkpoint, with metadata of ours.

    source: "dit", "sit", "repa", "lightningdit" or "jit", whose `file` is a state dict or a training checkpoint; or
    "diffusers", whose `file` is the folder of a DiTTransformer2DModel, or of the pipeline it is in. weights: "ema", or
    "raw" where a training checkpoint has both.

    What shapes do not tell is known for the published sizes, else to be said: num_heads; class_tokens_from, the block
    from which JiT's class tokens stand; num_classes, for a network trained without label dropout, whose table has no
    row for "no class". class_names: one a label; their numbers, or what diffusers' folder says, if None.

    A training checkpoint says with which options it was trained (path_type, prediction, noise_scale, ...): they are
    honoured, or refused. settings: the same for files that do not say; what neither says is as published.

    Warns of weights that were left out, and of options that are not known here. Raises ValueError, in one sentence, for
    a file that is none of these, with all differences of names and shapes, for options that cannot be expressed here,
    and for what is still to be said.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
    file, told = Path(file), Hints(num_heads, num_classes, class_tokens_from)
    if source == "diffusers":
        told.check_unused(source, "num_heads", "num_classes", "class_tokens_from")
        if settings:
            raise ValueError(f"settings={dict(settings)} cannot be told of source={source}; leave it out")
        return _import_folder(file, weights, class_names)
    family = FAMILIES[source]
    tensors, weights, options = read_weights(file, family, weights, settings)
    meaning, said = read_meaning(source, options, settings)
    tensors, left_out = as_written(family, tensors)
    if left_out:
        said.append(f"left out {len(left_out)} tensors {family.left_out}* of {file}, which only training needs")
    arguments, state, dropout = convert(file, family, tensors, meaning, told)
    if source == "jit" and "noise_scale" not in options and (path := published_jit(file, arguments["image_size"])):
        meaning = replace(meaning, path=path)
        said.append(f"{file} does not say its noise_scale: {path.noise_scale:g} is taken, as published at 512 pixels")
    for text in said:
        warnings.warn(text, UserWarning, stacklevel=2)
    normalisation = {"name": "Latents", "scale": meaning.scale}
    if meaning.scale is None:
        normalisation = _normalisation(arguments["channels"], _SD_SCALE if source in _OF_SD else None)
    metadata = _metadata(arguments, meaning.path, meaning.kind, normalisation, source, class_names, dropout)
    return _complete(build(state, metadata, weights, 0))


def _import_folder(folder: Path, weights: str, class_names: Sequence[str] | None) -> Model:
    found = diffusers.read_folder(folder)
    if found.stored is not None:
        stored, metadata = found.stored, found.stored.metadata
        check_weights(weights, stored.weights)
        if class_names is not None:
            metadata = replace(metadata, class_names=_class_names(class_names, metadata.num_classes))
        dit, arguments = class_of(metadata.network, "the metadata's network")
        if dit is not DiT:
            raise ValueError(
                f"checkpoint={folder} is said to be a {metadata.network['name']}, where diffusers has a dit"
            )
        state = diffusers.from_diffusers(folder, found.tensors, arguments)
        return build(state, metadata, stored.weights, stored.step)
    check_weights(weights, AS_GIVEN)
    arguments = diffusers.arguments_of(folder, found.config)
    state = diffusers.from_diffusers(folder, found.tensors, arguments)
    # A transformer alone does not say what it was trained on: the published ones on DiT's own table.
    path, kind = DiscreteVP.linear(), "eps"
    if found.scheduler is not None:
        path, kind = diffusers.path_and_kind(folder, found.scheduler)
    if found.vae is not None:
        normalisation = {"name": "Latents", "scale": found.vae.get("scaling_factor", _SD_SCALE)}
    else:
        normalisation = _normalisation(arguments["channels"], _SD_SCALE)
    labels = [str(label) for label in range(arguments["num_classes"])]
    if class_names is None and all(label in found.labels for label in labels):
        class_names = [found.labels[label] for label in labels]
    metadata = _metadata(arguments, path, kind, normalisation, "diffusers", class_names)
    return _complete(build(state, metadata, AS_GIVEN, 0))


def _metadata(
    arguments: dict[str, Any],
    path: GaussianPath,
    kind: str,
    codec: dict[str, Any],
    source: str,
    class_names: Sequence[str] | None,
    dropout: float = 0.1,
) -> Metadata:
    return Metadata(
        network={"name": "dit", **arguments},
        path=path.spec,
        kind=kind,
        **{key: arguments[key] for key in ("image_size", "channels", "num_classes")},
        class_names=_class_names(class_names, arguments["num_classes"]),
        codec=codec,
        dropout={"class": dropout},
        config={"imported_from": source},
    )


def _complete(loaded: Model) -> Model:
    """With the arguments that the shapes did not have to tell."""
    return replace(loaded, metadata=replace(loaded.metadata, network=loaded.network.spec))


def _class_names(given: Sequence[str] | None, count: int) -> list[str]:
    if given is None:
        return [str(label) for label in range(count)]
    if len(given) != count or len(set(given)) != count:
        raise ValueError(f"class_names must be {count} different names, got {len(given)} ({len(set(given))} different)")
    return list(given)


def _normalisation(channels: int, scale: float | None) -> dict[str, Any]:
    """Grey and colour are taken for pixels from -1 to 1; four channels for latents times `scale`. For others no scale
    is known."""
    if channels in (1, 3):
        return {"name": "Pixels", "mean": 0.5, "std": 0.5}
    return {"name": "Latents", "scale": scale if channels == 4 else None}
