"""From a file of ours, a training checkpoint or an exported one, to a network ready to sample."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.checkpoint.differences import check_names
from dit.checkpoint.metadata import Metadata
from dit.checkpoint.snapshots import reconstruct
from dit.checkpoint.stored import read_safetensors
from dit.checks import check_whole, one_line, shown
from dit.codec import LatentCodec, Pixels, codec_from_spec
from dit.diffusion import Denoiser, path_from_spec
from dit.model import Network, check_compile, class_of
from dit.model.adapters import adapter_from_spec, trained

AS_GIVEN = "as given"  # weights of which their file does not say whether they are averages

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # what a run keeps: the newest checkpoint, and the one before

_LENGTH = "length "  # begins the names of power-function averages
_ENTRIES = ("state_dict", "ema")


@dataclass(frozen=True)
class Loaded:
    """A network ready to sample, with its metadata. `weights` says which it has: "raw", "ema <decay>" or "ema length
    <length>"; of an imported one also "ema", or "as given" where its file does not say."""

    network: Network
    denoiser: Denoiser
    metadata: Metadata
    weights: str
    step: int

    def __repr__(self) -> str:
        """Five lines: network, prediction and path, samples and classes, weights, codec."""
        weights, names = list(self.network.parameters()), self.class_names
        size, dtype = sum(each.numel() for each in weights), str(weights[0].dtype).removeprefix("torch.")
        lines = [
            f"{self.metadata.network['name']}: {size:,} parameters, {dtype}, {weights[0].device}",
            f"predicts {self.denoiser.kind} on {_call(self.denoiser.path.spec)}",
            f"samples {self.shape}, {f'{len(names)} classes: {_first(names)}' if names else 'no classes'}",
            f"weights {self.weights}, step {self.step:,}",
            f"codec {_call(self.metadata.codec)}",
        ]
        return "\n".join(map(one_line, lines))

    def codec(self, vae: str | None = None, slicing: bool = False, tiling: bool = False) -> Pixels | LatentCodec:
        """Build the codec of these samples: `codec().decode(x0)` maps [B, C, H, W] in model space to uint8 pictures.

        Takes the arguments of `codec_from_spec`, and raises ValueError as it does.
        """
        return codec_from_spec(self.metadata.codec, vae, slicing, tiling)

    def computing(self, precision: str = "32-true", compile: str | None = None) -> Loaded:
        """The same network, in place, with weights in `precision`, 32-true or bf16-true, and its blocks compiled by a
        torch.compile backend, if one is named. Raises ValueError for other names."""
        if precision not in ("32-true", "bf16-true"):
            raise ValueError(f"precision must be 32-true or bf16-true, got {precision!r}")
        check_compile(compile)
        if compile is not None:
            self.network.compile_in_place(compile)
        if precision == "32-true":
            return self
        self.network.to(torch.bfloat16)
        return replace(self, weights=f"{self.weights} in bfloat16")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one sample."""
        return self.network.sample_shape

    @property
    def class_names(self) -> list[str]:
        """One name per label of the network; empty where it is unconditional."""
        return self.metadata.class_names[: self.network.num_classes]

    @property
    def pictures(self) -> dict[str, Any]:
        """What its metadata say of the pictures it was trained on. ValueError for a network that came from elsewhere,
        and for one of latents."""
        if not self.metadata.pictures:
            raise ValueError(
                "this checkpoint was not trained here: it names no pictures to score samples against; "
                "real=... may name some"
            )
        if self.metadata.codec.get("name") == "Latents":
            raise ValueError(
                "this model was trained on latents: there are no pictures to score samples against; real=... may name "
                "some"
            )
        return self.metadata.pictures

    def labels(self, classes: Sequence[int | str] | int | str | None, per_class: int) -> list[int] | None:
        """`per_class` labels of each of `classes` (labels or names; all if None), class by class.

        None for an unconditional network. Raises ValueError for an unknown class.
        """
        assert per_class >= 1
        classes = [classes] if isinstance(classes, int | str) else classes
        names = self.class_names
        if not names:
            if classes is not None:
                raise ValueError(f"classes={list(classes)} cannot be asked of an unconditional model")
            return None
        if classes is None:
            classes = range(len(names))
        if not classes:
            raise ValueError("classes must name at least one class, got []")
        return [label for given in classes for label in [_label(given, names)] * per_class]


def _label(given: int | str, names: list[str]) -> int:
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(names):
        if names[given] != str(given) and str(given) in names:
            raise ValueError(
                f"classes={given} is both label {given} (class {names[given]}) and the name of class "
                f"{names.index(str(given))}; write names of digits in quotes, classes=[\"'{given}'\"]"
            )
        return given
    if isinstance(given, str) and given in names:
        return names.index(given)
    raise ValueError(f"classes must be labels 0 to {len(names) - 1} or names of {_first(names)}; got {given!r}")


def _first(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _call(spec: dict[str, Any]) -> str:
    return f"{spec.get('name')}({', '.join(f'{key}={value}' for key, value in spec.items() if key != 'name')})"


def load(
    file: str | Path,
    weights: str | float = "ema",
    device: str | torch.device = "cpu",
    key: str = "checkpoint",
) -> Loaded:
    """Rebuild network and denoiser from a training checkpoint, in evaluation mode on `device`; or from a .safetensors
    file that `export_safetensors` wrote.

    weights: "ema" (the first average), "raw", or one of the decays or lengths, such as "0.999"; also a length that was
    not tracked, which is made up of the snapshots of the run, if the checkpoint lies in a folder of it. An exported
    file has one set of weights, which "ema" takes, whatever it is. key: the setting to blame.

    Raises ValueError, in one sentence, for a file that is missing, truncated, of another kind, or without `weights`.
    """
    file = Path(file).expanduser()
    if file.suffix == ".safetensors":
        _check_file(file, key)
        stored, state = read_safetensors(file, key)
        check_weights(weights, stored.weights)
        return build(state, stored.metadata, stored.weights, stored.step, device)
    contents = read(file, key)
    averages, step = contents["ema"]["averages"], contents.get("global_step", 0)
    chosen = next(iter(averages)) if weights == "ema" else _named(weights, averages)
    prefix = "network."
    raw = {k.removeprefix(prefix): v for k, v in contents["state_dict"].items() if k.startswith(prefix)}
    if weights == "raw":
        state = raw
    elif chosen is not None:
        state, weights = raw | averages[chosen], f"ema {chosen}"  # of what was not trained there is no average
    elif any(name.startswith(_LENGTH) for name in averages) and _number(weights) is not None:
        run = file.resolve().parent.parent
        made = reconstruct(run, float(weights), step, key="weights")
        state, weights = made.state(), made.stored.weights
    else:
        raise ValueError(f"weights must be ema, raw or one of {', '.join(averages)}, got {weights!r}")
    averaged = averages[chosen].keys() if chosen is not None and weights != "raw" else None
    return build(state, contents["metadata"], str(weights), step, device, averaged)


def _named(weights: str | float, names: Iterable[str]) -> str | None:
    """The average that is meant: by its name, or by its number however it is written."""
    asked = {str(weights), str(_number(weights)), f"{_LENGTH}{_number(weights)}"}
    return next((name for name in names if name in asked), None)


def _number(weights: str | float) -> float | None:
    try:
        return float(weights)
    except ValueError:
        return None


def check_weights(asked: str | float, stored: str) -> None:
    """ValueError where a file that holds the weights `stored` alone was `asked` for others."""
    allowed = ["ema"] if stored in ("ema", AS_GIVEN) else ["ema", stored.removeprefix("ema ")]
    if _named(asked, allowed) is None:
        raise ValueError(f"weights must be {' or '.join(allowed)} where a file has one set ({stored}), got {asked!r}")


def build(
    state: dict[str, Tensor],
    metadata: Metadata,
    weights: str,
    step: int,
    device: str | torch.device = "cpu",
    averaged: Collection[str] | None = None,
) -> Loaded:
    """The network and the denoiser that `metadata` describe, with the weights `state`, in evaluation mode.
    averaged: names of those that are of an average, if they are to be.

    ValueError where the two do not fit, or where this version does not know what the metadata say of the network.
    """
    network = _network(metadata, state)
    if averaged is not None and (lost := [name for name in trained(network) if name not in averaged]):
        raise ValueError(f"the checkpoint is no network of its metadata: missing {lost[0]} in its average")
    network.load_state_dict(state)
    network.eval().requires_grad_(False).to(device)
    denoiser = Denoiser(
        network,
        path_from_spec(metadata.path),
        metadata.kind,
        metadata.null_label(network),
        sigma_data=metadata.sigma_data,
        learned_variance=network.learns_variance,
        optional=metadata.optional(network),
    )
    return Loaded(network, denoiser, metadata, weights, step)


def _network(metadata: Metadata, state: dict[str, Tensor]) -> Network:
    """The network, adapted, which takes memory only when the shapes of `state` are found to be its own."""
    what = "the metadata's network"
    network, arguments = class_of(metadata.network, what)
    adapters = [adapter_from_spec(spec, "the metadata's adapter") for spec in metadata.adapters]

    def adapted() -> Network:
        made = network(**arguments)
        for adapter in adapters:
            adapter.apply(made)
        return made

    try:
        network.check_size(arguments, len(state))
    except ValueError as error:
        raise ValueError(f"{what} {error}") from error
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in adapted().state_dict().items()}
    check_names("the checkpoint", "network of its metadata", state, shapes)
    return adapted()


def load_denoiser(file: str | Path, weights: str | float = "ema") -> Denoiser:
    """The denoiser of a checkpoint alone, for rules that guide with a second network; see `load`."""
    return load(file, weights, key="guidance.weak.file").denoiser


def check_resume(file: str | Path, max_steps: int) -> None:
    """ValueError, before anything else is built, where `file` is no checkpoint or its run is already over."""
    step = read(file, "resume")["global_step"]
    if step >= max_steps:
        raise ValueError(f"trainer.max_steps={max_steps} must exceed step {step}, which resume={file} has reached")


def read(file: str | Path, key: str = "checkpoint") -> dict[str, Any]:
    """The plain containers of a checkpoint, on the CPU. ValueError, blaming the setting `key`, if it is not ours."""
    file = Path(file).expanduser()
    _check_file(file, key)
    if file.suffix == ".safetensors":
        raise ValueError(f"{key}={file} holds weights and no run; give the path of a .ckpt file that train.py wrote")
    contents = unpickled(file, key)
    known = isinstance(contents, dict) and all(entry in contents for entry in _ENTRIES)
    if not known or not ("metadata" in contents or "passport" in contents):
        raise ValueError(
            f"{key}={file} is of another kind: it has no {', '.join(_ENTRIES)}, metadata as train.py writes them; "
            "files of others are made ours by python -m dit.checkpoint import"
        )
    try:
        contents["metadata"] = Metadata.in_checkpoint(contents)
        _check_weights(contents)
    except ValueError as error:
        raise ValueError(f"{key}={file} is damaged or of another version: {error}") from error
    return contents


def _check_weights(contents: dict[str, Any]) -> None:
    check_whole("global_step", contents.get("global_step", 0), least=0)
    averages = contents["ema"].get("averages") if isinstance(contents["ema"], dict) else None
    if not isinstance(averages, dict) or not averages:
        raise ValueError(f"its ema must hold averages by name, got {shown(averages)}")
    version = contents.get("pytorch-lightning_version", "2.0")
    if not isinstance(version, str) or not re.fullmatch(r"\d+(\.\d+)*\w*", version):
        raise ValueError(f"its version of Lightning must be text as 2.6.6, got {shown(version)}")
    run = contents.get("run", {})
    if not isinstance(run, dict):
        raise ValueError(f"its run must be values by name, got {shown(run)}")
    shared = run.get("shared")
    if shared is not None and not (
        isinstance(shared, list) and len(shared) == 2 and all(type(n) is int for n in shared)
    ):
        raise ValueError(f"its run's shared must be two whole numbers, got {shown(shared)}")
    check_whole("its run's rollbacks", run.get("rollbacks", 0), least=0)
    if not isinstance(run.get("validation_loss"), float | None):
        raise ValueError(f"its run's validation_loss must be a number, got {shown(run['validation_loss'])}")
    for name, tensors in {"state_dict": contents["state_dict"], **averages}.items():
        if not isinstance(tensors, dict) or not all(
            isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in tensors.items()
        ):
            raise ValueError(f"its {shown(name)} must be tensors by name")


def _check_file(file: Path, key: str) -> None:
    if not file.exists():
        raise ValueError(f"{key}={file} does not exist; give the path of a .ckpt file that train.py wrote")
    if file.is_dir():
        raise ValueError(f"{key}={file} is a folder; give the path of a .ckpt file that train.py wrote")


def unpickled(file: Path, key: str) -> Any:
    """What torch.load makes of an existing file, on the CPU, of tensors and plain containers alone.

    ValueError, blaming the setting `key`, where it cannot.
    """
    check_sums(file, key)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ValueError(f"{key}={file} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever an unpickler makes of bytes that are no pickle
        if "Unsupported global" in str(error):
            raise ValueError(
                f"{key}={file} holds more than tensors and plain containers, of which nothing is run here; save its "
                "state dict alone"
            ) from error
        raise ValueError(
            f"{key}={file} cannot be read ({file.stat().st_size:,} bytes): it is truncated or no checkpoint"
        ) from error


def check_sums(file: Path, key: str) -> None:
    """ValueError, blaming the setting `key`, where a record of a file that torch wrote has not the CRC-32 written with
    it, which torch.load does not look at. A file that is no archive passes: it has none."""
    try:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            # Of what is marked as a folder torch would read nothing, and leave the memory as it was.
            folders = (e.filename for e in archive.infolist() if e.external_attr & 0x10 and not e.is_dir())
            damaged = next(folders, None) or archive.testzip()
    except Exception:  # whatever reading a damaged archive raises; `zipfile` does not say
        damaged = "its table of contents"
    if damaged is not None:
        raise ValueError(f"{key}={file} is damaged: {damaged} is not what was written")
