"""WHAT A CHECKPOINT SAYS OF ITSELF: typed, versioned, migrated from older files and checked in this one place."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dit.checks import check_number, check_whole, printable, shown
from dit.diffusion.prediction import check_kind
from dit.model import Network, class_of
from dit.versions import versions

VERSION = 2


@dataclass(frozen=True)
class Metadata:
    """All that sampling, resuming and scoring need to know, in plain containers.

    network, path, codec: specs, {"name": ..., **arguments}. kind: what the network predicts; sigma_data: of the kind
    "edm". image_size, channels, num_classes, class_names: of the pictures, in model space. conditions: what else the
    pictures came with in training: {name: shape of one}. dropout: the share of pictures of which the network was not
    told the class, or a condition, by name. adapters: specs of what was put into the network after it was built, in
    order. pictures: how to open those it was trained on; None if it was not trained here. config: of the run, for
    people to read. ditlab, torch: the versions that wrote it; version: of this form.

    Raises ValueError, naming the entry, for what is of another type; what specs describe is checked where it is built.
    """

    network: dict[str, Any]
    path: dict[str, Any]
    kind: str
    image_size: int
    channels: int
    num_classes: int
    class_names: list[str]
    codec: dict[str, Any]
    sigma_data: float = 1.0
    conditions: dict[str, list[int]] = field(default_factory=dict)
    dropout: dict[str, float] = field(default_factory=dict)
    adapters: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    ditlab: str = field(default_factory=lambda: versions()["ditlab"])
    torch: str = field(default_factory=lambda: versions()["torch"])
    version: int = VERSION

    def __post_init__(self) -> None:
        for each in fields(self):
            if not _is_plain(value := getattr(self, each.name)):
                raise ValueError(f"the metadata's {each.name} must be plain values, got {shown(value)}")
        for name in ("network", "path", "codec", "conditions", "dropout", "config"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"the metadata's {name} must be a mapping, got {shown(getattr(self, name))}")
        if not isinstance(self.pictures, dict | None):
            raise ValueError(f"the metadata's pictures must be a mapping or null, got {shown(self.pictures)}")
        check_kind(self.kind, "the metadata's kind")
        check_number("the metadata's sigma_data", self.sigma_data, least=1e-30)
        for key, least in (("image_size", 1), ("channels", 1), ("num_classes", 0), ("version", 1)):
            check_whole(f"the metadata's {key}", getattr(self, key), least)
        if not isinstance(self.class_names, list) or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError(f"the metadata's class_names must be a list of strings, got {shown(self.class_names)}")
        for name, shape in self.conditions.items():
            if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
                raise ValueError(f"the metadata's conditions {shown(name)} must have a shape, got {shown(shape)}")
        for name, rate in self.dropout.items():
            check_number(f"the metadata's dropout {shown(name)}", rate, 0, 1)
        if not isinstance(self.adapters, list):
            raise ValueError(f"the metadata's adapters must be a list, got {shown(self.adapters)}")
        for key in ("ditlab", "torch"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"the metadata's {key} must be a version, got {shown(getattr(self, key))}")

    @staticmethod
    def from_dict(stored: Any) -> Metadata:
        """What a file holds, of this version of the form or of an older one. ValueError for anything else."""
        if not isinstance(stored, dict) or not _is_plain(stored):
            raise ValueError(f"its metadata must be a mapping of plain values, got {shown(stored)}")
        if "version" not in stored:
            stored = _from_version_1(stored)
        if isinstance(stored.get("version"), int) and stored["version"] > VERSION:
            raise ValueError(
                f"its metadata are of version {stored['version']}, written by ditlab {shown(stored.get('ditlab'))}; "
                f"this one reads up to version {VERSION}: install a newer ditlab"
            )
        known = {each.name for each in fields(Metadata)}
        if wrong := sorted(stored.keys() - known):
            raise ValueError(
                f"its metadata have {printable(', '.join(map(str, wrong)))}, which this version does not know"
            )
        if missing := [key for key in ("network", "path", "kind", *FACTS) if key not in stored]:
            raise ValueError(f"its metadata lack {', '.join(missing)}")
        return Metadata(**stored)

    def null_label(self, network: Network) -> int | None:
        """The label of "no class" if training ever used it, else None: what a Denoiser should be told."""
        return network.null_label if network.num_classes == 0 or self.dropout.get("class", 0) > 0 else None

    def optional(self, network: Network) -> frozenset[str]:
        """Conditions that a sample may do without, because training did or the network has its own null."""
        built_in = {name for name, condition in network.conditions.items() if condition.built_in}
        return frozenset(built_in | {name for name, rate in self.dropout.items() if rate > 0 and name != "class"})

    def to_dict(self) -> dict[str, Any]:
        """As files hold it; `from_dict` reads it."""
        return asdict(self)

    @staticmethod
    def in_checkpoint(contents: Mapping[str, Any]) -> Metadata:
        """Of a training checkpoint, which older versions called a passport. ValueError as `from_dict`."""
        return Metadata.from_dict(contents["metadata"] if "metadata" in contents else contents.get("passport"))

    def differences(self, other: Metadata) -> list[tuple[str, Any, Any]]:
        """(entry, here, there) of what makes another network or another meaning of its numbers."""
        pairs = [("network", completed(self.network), completed(other.network))]
        pairs += [(key, getattr(self, key), getattr(other, key)) for key in _DECIDING]
        return [(key, mine, theirs) for key, mine, theirs in pairs if not _same(key, mine, theirs)]


FACTS = ("image_size", "channels", "num_classes", "class_names", "codec")
_DECIDING = ("path", "kind", "sigma_data", "conditions", "dropout", "adapters", *FACTS)


def completed(spec: dict[str, Any]) -> dict[str, Any]:
    """A network's spec with the defaults of what it does not say. ValueError for one that is not known here."""
    network, given = class_of(spec, "the metadata's network")
    parameters = inspect.signature(network.__init__).parameters.values()
    defaults = {
        p.name: p.default for p in parameters if p.default is not p.empty and p.name not in network.RUN_ARGUMENTS
    }
    return {"name": spec["name"], **defaults, **given}


def same_codec(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether numbers mean the same: where an autoencoder lies is nothing, nor is its hash where only one tells it."""
    a, b = ({"shift": 0.0, **spec, "vae": None} if spec.get("name") == "Latents" else spec for spec in (a, b))
    return {"vae_hash": b.get("vae_hash"), **a} == {"vae_hash": a.get("vae_hash"), **b}


def _same(key: str, mine: Any, theirs: Any) -> bool:
    return same_codec(mine, theirs) if key == "codec" else mine == theirs


def _from_version_1(passport: dict[str, Any]) -> dict[str, Any]:
    """Until ditlab 0.1 it was a `passport`: one network, one condition, and the pictures in the configuration."""
    for key in ("model", "path", "data", "config"):
        if not isinstance(passport.get(key), dict):
            raise ValueError(f"its passport's {key} must be a mapping, got {shown(passport.get(key))}")
    facts, config = dict(passport["data"]), passport["config"]
    if wrong := sorted(passport.keys() - {"model", "path", "kind", "sigma_data", "data", "pictures", "config"}):
        raise ValueError(f"its passport has {printable(', '.join(wrong))}, which this version does not know")
    if missing := [key for key in (*FACTS[:-1], "normalisation") if key not in facts]:
        raise ValueError(f"its passport's data lacks {', '.join(missing)}")
    augmented = facts.pop("augment_dim", 0)
    network = {"name": "dit", **passport["model"]}
    return {
        "dropout": {"class": network.pop("class_dropout", 0.1)},
        "network": network,
        "path": passport["path"],
        "kind": passport.get("kind"),
        "sigma_data": passport.get("sigma_data", 1.0),
        **{key: facts[key] for key in FACTS[:-1]},
        "codec": facts["normalisation"],
        "conditions": {"augment": [augmented]} if augmented else {},
        "pictures": passport.get("pictures", _entry(config, "data")),
        "config": _renamed(config),
        "ditlab": "0.1.0",
        "torch": "unknown",
    }


_MOVED = {
    f"dit.diffusion.{name}": f"dit.objectives.{name}"
    for name in ("CosineDirection", "HybridVLB", "LearnedUncertainty", "MSE", "MinSNR")
}


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of version 1 with the names of today, which a run that goes on compares with its own."""
    config = _moved(config)
    model = _entry(config, "model")
    if not isinstance(model, dict) or "class_dropout" not in model:
        return config
    kept = {key: value for key, value in model.items() if key != "class_dropout"}
    return {**config, "model": kept, "dropout": {"class": model["class_dropout"]}}


def _entry(stored: dict[str, Any], key: str) -> Any:
    return stored[key] if key in stored else None  # noqa: SIM401


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _moved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item) for item in value]
    return _MOVED.get(value, value) if isinstance(value, str) else value


def _is_plain(value: Any, depth: int = 0) -> bool:
    if depth > 50:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item, depth + 1) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
