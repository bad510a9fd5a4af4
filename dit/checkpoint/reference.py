"""The names that DiT's own code gave to weights, which SiT, LightningDiT and JiT kept: what they are called here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.checkpoint.differences import check_names, check_table
from dit.checkpoint.load import AS_GIVEN, unpickled
from dit.checkpoint.shapes import Told, arguments_of
from dit.diffusion import DiscreteVP, GaussianPath, LinearFlow
from dit.model import DiT
from dit.model.position import AxialRotary, sincos_positions, unrotated_before

_DATA_TIME = LinearFlow(time_scale=1.0, data_time=True)


@dataclass(frozen=True)
class Family:
    """What the published code of a family says and its weights do not.

    entries: where a training checkpoint keeps which weights. learns_variance: the second half of a doubled head is a
    variance; else it was never trained, and is dropped. negated: its velocity runs from noise to data, ours from data
    to noise. modern: RMSNorm, SwiGLU, class tokens and norms of queries and keys may occur. position: see `DiT`; None
    where the tables in the file tell.
    """

    name: str
    path: GaussianPath
    kind: str
    entries: Mapping[str, str] = field(default_factory=lambda: {"ema": "ema", "raw": "model"})
    learns_variance: bool = False
    negated: bool = False
    modern: bool = False
    position: str | None = "sincos"


FAMILIES = {
    "dit": Family("DiT", DiscreteVP.linear(), "eps", learns_variance=True),
    "sit": Family("SiT", _DATA_TIME, "velocity", negated=True),
    "lightningdit": Family("LightningDiT", _DATA_TIME, "velocity", negated=True, modern=True, position=None),
    "jit": Family("JiT", _DATA_TIME, "x0", {"ema": "model_ema1", "raw": "model"}, modern=True, position="sincos_rope"),
}

# Ours, and theirs; a key is renamed by the first that begins it.
_RENAMES = (
    (r"patch_embed\.0\.", "x_embedder.proj1."),
    (r"patch_embed\.1\.", "x_embedder.proj2."),
    (r"patch_embed\.", "x_embedder.proj."),
    (r"time_embed\.enter\.", "t_embedder.mlp.0."),
    (r"time_embed\.leave\.", "t_embedder.mlp.2."),
    (r"label_embed\.table\.", "y_embedder.embedding_table."),
    (r"class_tokens\.positions", "in_context_posemb"),
    (r"(blocks\.\d+)\.attention\.", r"\1.attn."),
    (r"(blocks\.\d+)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.mlp\.2\.", r"\1.mlp.fc2."),
    (r"(blocks\.\d+)\.mlp\.enter\.", r"\1.mlp.w12."),
    (r"(blocks\.\d+)\.mlp\.leave\.", r"\1.mlp.w3."),
    (r"(blocks\.\d+)\.modulation\.linear\.", r"\1.adaLN_modulation.1."),
    (r"final\.modulation\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"final\.norm\.", "final_layer.norm_final."),
    (r"final\.linear\.", "final_layer.linear."),
)
_WRAPPERS = ("_orig_mod.", "module.", "net.")  # of torch.compile, of data parallelism, of JiT's Denoiser


def read_weights(file: Path, family: Family, weights: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a `family` checkpoint, on the CPU, and which weights they are. A file with none of the entries of
    a training checkpoint is a state dict itself.

    Raises ValueError for a file that is missing, no checkpoint, or without `weights`.
    """
    if not file.is_file():
        raise ValueError(f"checkpoint={file} is no file; give the .pt or .pth file of a {family.name}")
    if weights not in family.entries:
        raise ValueError(f"weights must be {' or '.join(family.entries)} for a {family.name}, got {weights!r}")
    with torch.serialization.safe_globals([argparse.Namespace]):  # what training scripts were called with
        contents = unpickled(file, "checkpoint")
    if not isinstance(contents, dict):
        raise ValueError(f"{file} is no {family.name}: it holds a {type(contents).__name__} rather than a state dict")
    there = [name for name, entry in family.entries.items() if entry in contents]
    if weights in there:
        contents = contents[family.entries[weights]]
    elif there or weights != "ema":
        raise ValueError(f"weights={weights} is not in {file}; it holds {' and '.join(there) or 'weights as given'}")
    else:
        weights = AS_GIVEN
    if not isinstance(contents, dict) or not all(isinstance(value, Tensor) for value in contents.values()):
        raise ValueError(f"{file} is no {family.name}: its entries are {', '.join(map(str, list(contents)[:4]))}")
    return {_unwrapped(name): tensor for name, tensor in contents.items()}, weights


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def convert(
    file: Path, family: Family, tensors: dict[str, Tensor], told: Told
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments of our network and its state dict, of what `read_weights` read.

    Raises ValueError, in one sentence, where the arguments cannot be told, or where the tensors are not those of a
    `family` network of these arguments.
    """
    arguments, built = arguments_of(file, family.name, tensors, told, modern=family.modern, position=family.position)
    arguments["learn_variance"] = family.learns_variance and built["learn_variance"]
    with torch.device("meta"):
        network = DiT(**{**arguments, **built})
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    expected = {_theirs(name): _their_shape(name, shape, arguments) for name, shape in shapes.items()}
    tables = _fixed_tables(tensors, network.arguments)
    check_names(file, family.name, tensors, expected | {name: tuple(table.shape) for name, table in tables.items()})
    for name, table in tables.items():
        check_table(file, family.name, name, tensors[name], table)

    state = {}
    for name, shape in shapes.items():
        tensor = tensors[_theirs(name)]
        if tensor.ndim == 4:  # a convolution [W, C, p, p] over patches is a linear of their values, (p q c)
            tensor = tensor.permute(0, 2, 3, 1)
        state[name] = tensor.reshape(shape)
    for name in ("final.linear.weight", "final.linear.bias"):
        if built["learn_variance"] and not arguments["learn_variance"]:
            state[name] = _first_half(state[name], arguments["channels"])
        if family.negated:
            state[name] = -state[name]
    if built["num_classes"] < arguments["num_classes"]:  # labels were never dropped, so no row stands for "no class"
        rows = state["label_embed.table.weight"]
        state["label_embed.table.weight"] = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    return arguments, state


def _theirs(name: str) -> str:
    for ours, theirs in _RENAMES:
        if re.match(ours, name):
            return re.sub(ours, theirs, name, count=1)
    return name


def _their_shape(name: str, shape: tuple[int, ...], arguments: dict[str, Any]) -> tuple[int, ...]:
    if name in ("patch_embed.weight", "patch_embed.0.weight"):
        return shape[0], arguments["channels"], arguments["patch_size"], arguments["patch_size"]
    if name == "patch_embed.1.weight":
        return *shape, 1, 1
    return (1, *shape) if name == "class_tokens.positions" else shape


def _first_half(rows: Tensor, channels: int) -> Tensor:
    """Of rows (p q 2c), those of the first c channels."""
    return rows.unflatten(0, (-1, 2 * channels))[:, :channels].flatten(0, 1)


def _fixed_tables(tensors: dict[str, Tensor], arguments: dict[str, Any]) -> dict[str, Tensor]:
    """What is saved beside the weights though it follows from the arguments, by their names."""
    side, width = arguments["image_size"] // arguments["patch_size"], arguments["hidden_size"]
    tables = {"pos_embed": sincos_positions(width, side, side)[None]}  # [1, N, W]
    if arguments["position"] == "sincos_rope":
        rotation = AxialRotary(width // arguments["num_heads"], side)()  # [N, D] twice
        behind_tokens = unrotated_before(rotation, arguments["class_tokens"])
        for prefix, pair in (("feat_rope", rotation), ("feat_rope_incontext", behind_tokens)):
            for name, table in zip(("freqs_cos", "freqs_sin"), pair or (), strict=True):
                if f"{prefix}.{name}" in tensors:
                    tables[f"{prefix}.{name}"] = table
    return tables
