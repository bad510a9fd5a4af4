"""From a file of ours, a training checkpoint or an exported one, to a network ready to sample."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.checkpoint.differences import check_names
from dit.checkpoint.metadata import Metadata
from dit.checkpoint.reading import check_file, read
from dit.checkpoint.snapshots import reconstruct
from dit.checkpoint.stored import read_safetensors
from dit.checks import one_line
from dit.codec import LatentCodec, Pixels, codec_from_spec
from dit.diffusion import Denoiser, path_from_spec
from dit.model import Network, check_compile, class_of
from dit.model.adapters import adapter_from_spec, trained

AS_GIVEN = "as given"  # weights of which their file does not say whether they are averages

_LENGTH = "length "  # begins the names of power-function averages


@dataclass(frozen=True)
class Model:
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

    def computing(
        self, precision: str = "32-true", compile: str | None = None, compile_mode: str | None = None
    ) -> Model:
        """The same network, in place, with weights in `precision`, 32-true or bf16-true, and compiled by a
        torch.compile backend, if one is named, in a mode, see `check_compile`. Raises ValueError for other names."""
        if precision not in ("32-true", "bf16-true"):
            raise ValueError(f"precision must be 32-true or bf16-true, got {precision!r}")
        check_compile(compile, compile_mode)
        if compile is not None:
            self.network.compile_in_place(compile, compile_mode)
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
) -> Model:
    """Rebuild network and denoiser from a training checkpoint, in evaluation mode on `device`; or from a .safetensors
    file that `export_safetensors` wrote.

    weights: "ema" (the first average), "raw", or one of the decays or lengths, such as "0.999"; also a length that was
    not tracked, which is made up of the snapshots of the run, if the checkpoint lies in a folder of it. An exported
    file has one set of weights, which "ema" takes, whatever it is. key: the setting to blame.

    Raises ValueError, in one sentence, for a file that is missing, truncated, of another kind, or without `weights`.
    """
    file = Path(file).expanduser()
    if file.suffix == ".safetensors":
        check_file(file, key)
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
) -> Model:
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
    return Model(network, denoiser, metadata, weights, step)


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
