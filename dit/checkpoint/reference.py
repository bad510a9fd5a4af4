"""The names that DiT's own code gave to weights, kept by SiT, REPA, LightningDiT and JiT: what they are called here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.checkpoint.differences import check_names, check_table
from dit.checkpoint.loading import AS_GIVEN
from dit.checkpoint.reading import unpickled
from dit.checkpoint.settings import Meaning, Options, read_options
from dit.checkpoint.shapes import Hints, arguments_of
from dit.model import DiT
from dit.model.position import AxialRotary, sincos_positions, unrotated_before


@dataclass(frozen=True)
class Family:
    """What the published code of a family says of its weights, and their shapes do not.

    entries: where a training checkpoint keeps which weights. learns_variance: the second half of a doubled head is a
    variance; else it was never trained, and is dropped. modern: RMSNorm, SwiGLU and class tokens may occur. qk_norm:
    norms of queries and keys may. position: see `DiT`; None where the tables in the file tell. left_out: begins the
    names of weights that only training needs. later_blocks: what REPA's first release called the blocks behind those
    that its projectors look into, counted anew.
    """

    name: str
    entries: Mapping[str, str] = field(default_factory=lambda: {"ema": "ema", "raw": "model"})
    learns_variance: bool = False
    modern: bool = False
    qk_norm: bool = False
    position: str | None = "sincos"
    left_out: str | None = None
    later_blocks: str | None = None


FAMILIES = {
    "dit": Family("DiT", learns_variance=True),
    "sit": Family("SiT"),
    "repa": Family("REPA", qk_norm=True, left_out="projectors.", later_blocks="decoder_blocks"),
    "lightningdit": Family("LightningDiT", modern=True, qk_norm=True, position=None),
    "jit": Family("JiT", {"ema": "model_ema1", "raw": "model"}, modern=True, qk_norm=True, position="sincos_rope"),
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


def read_weights(
    file: Path, family: Family, weights: str, told: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], str, Options]:
    """The tensors of a `family` checkpoint, on the CPU, which weights they are, and the options they were trained with,
    of the file and as `told`. A file with none of the entries of a training checkpoint is a state dict itself.

    Raises ValueError for a file that is missing, no checkpoint, or without `weights`.
    """
    if not file.is_file():
        raise ValueError(f"checkpoint={file} is no file; give the .pt or .pth file of a {family.name}")
    if weights not in family.entries:
        raise ValueError(f"weights must be {' or '.join(family.entries)} for a {family.name}, got {weights!r}")
    # What training scripts were called with. Unpickling fills its __dict__ and calls nothing of it.
    with torch.serialization.safe_globals([argparse.Namespace]):
        contents = unpickled(file, "checkpoint")
    if not isinstance(contents, dict):
        raise ValueError(f"{file} is no {family.name}: it holds a {type(contents).__name__} rather than a state dict")
    there = [name for name, entry in family.entries.items() if contents.get(entry) is not None]
    options = read_options(file, contents if there else {}, told)
    if weights in there:
        contents = contents[family.entries[weights]]
    elif there or weights != "ema":
        raise ValueError(f"weights={weights} is not in {file}; it holds {' and '.join(there) or 'weights as given'}")
    else:
        weights = AS_GIVEN
    named = isinstance(contents, dict) and all(isinstance(name, str) for name in contents)
    if not named or not all(isinstance(value, Tensor) for value in contents.values()):
        raise ValueError(f"{file} is no {family.name}: its entries are {', '.join(map(str, list(contents)[:4]))}")
    return {_unwrapped(name): tensor for name, tensor in contents.items()}, weights, options


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def as_written(family: Family, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """`tensors` in the form that `convert` reads, whichever form a `family` wrote them in; and the names left out."""
    left_out = [name for name in tensors if family.left_out is not None and name.startswith(family.left_out)]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    if family.later_blocks is not None:
        first = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
        again = re.compile(re.escape(family.later_blocks) + r"\.(\d+)\.")
        tensors = {again.sub(lambda found: f"blocks.{first + int(found[1])}.", n): t for n, t in tensors.items()}
    if family.modern:
        tensors |= _with_shifts(tensors)
    return tensors, left_out


def _with_shifts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Modulations without shifts (LightningDiT's wo_shift: scale and gate of attention, scale and gate of the MLP) as
    ones whose shifts are zero, which compute the same."""
    shifted = {}
    for name, weight in tensors.items():
        bias = tensors.get(name.removesuffix("weight") + "bias")
        if not re.fullmatch(r"blocks\.\d+\.adaLN_modulation\.1\.weight", name) or bias is None:
            continue
        if weight.ndim == 2 and len(weight) == len(bias) == 4 * weight.shape[1]:
            for part, rows in ((name, weight), (name.removesuffix("weight") + "bias", bias)):
                none = torch.zeros_like(rows[: weight.shape[1]])
                attention, mlp = rows.chunk(2)
                shifted[part] = torch.cat([none, attention, none, mlp])
    return shifted


def convert(
    file: Path, family: Family, tensors: dict[str, Tensor], meaning: Meaning, told: Hints
) -> tuple[dict[str, Any], dict[str, Tensor], float]:
    """The arguments of our network, its state dict and the rate at which labels were dropped, of what `read_weights`
    read and what it means.

    Raises ValueError, in one sentence, where the arguments cannot be told, or where the tensors are not those of a
    `family` network of these arguments.
    """
    if told.num_classes is None:
        told = replace(told, num_classes=meaning.num_classes)
    arguments, built = arguments_of(
        file,
        family.name,
        tensors,
        told,
        modern=family.modern,
        qk_norm=family.qk_norm,
        position=meaning.arguments.get("position", family.position),
    )
    arguments = {**meaning.arguments, **arguments}
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
        if meaning.negated:
            state[name] = -state[name]
    if built["num_classes"] < arguments["num_classes"]:  # labels were never dropped, so no row stands for "no class"
        rows = state["label_embed.table.weight"]
        state["label_embed.table.weight"] = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
        return arguments, state, 0.0
    return arguments, state, meaning.dropout


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
