"""The names of diffusers' DiTTransformer2DModel and its schedulers, both ways; diffusers itself is not needed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.checkpoint.differences import check_names, check_table
from dit.checkpoint.metadata import Metadata
from dit.checkpoint.reading import unpickled
from dit.checkpoint.stored import StoredMetadata, open_safetensors
from dit.diffusion import DiscreteVP, GaussianPath
from dit.model import DiT
from dit.model.position import sincos_positions

CLASS = "DiTTransformer2DModel"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG, SCHEDULER_CONFIG, INDEX = "config.json", "scheduler_config.json", "model_index.json"

_CLASSES = (CLASS, "Transformer2DModel")  # the second of folders published before DiT had a class of its own
_FIXED = {
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}
_SIZES = {  # its key -> ours
    "sample_size": "image_size",
    "in_channels": "channels",
    "num_embeds_ada_norm": "num_classes",
    "patch_size": "patch_size",
    "num_layers": "depth",
    "num_attention_heads": "num_heads",
}
_NORM_EPS = 1e-5  # its default, of folders published before it could be set

_SCHEDULER_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
_KINDS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
_SCHEDULES = {
    "DiscreteVP.linear": "linear",
    "DiscreteVP.scaled_linear": "scaled_linear",
    "DiscreteVP.cosine": "squaredcos_cap_v2",
}
_COSINE = {"offset": 0.008, "max_beta": 0.999}  # written into its schedule of that name

_RENAMES = (
    (r"patch_embed\.", "pos_embed.proj."),
    (r"blocks\.(\d+)\.attention\.qkv\.", r"transformer_blocks.\1.attn1.to_{}."),
    (r"blocks\.(\d+)\.attention\.proj\.", r"transformer_blocks.\1.attn1.to_out.0."),
    (r"blocks\.(\d+)\.mlp\.0\.", r"transformer_blocks.\1.ff.net.0.proj."),
    (r"blocks\.(\d+)\.mlp\.2\.", r"transformer_blocks.\1.ff.net.2."),
    (r"blocks\.(\d+)\.modulation\.linear\.", r"transformer_blocks.\1.norm1.linear."),
    (r"final\.modulation\.linear\.", "proj_out_1."),
    (r"final\.linear\.", "proj_out_2."),
    # Every block holds its own copy of these.
    (r"time_embed\.enter\.", "transformer_blocks.{}.norm1.emb.timestep_embedder.linear_1."),
    (r"time_embed\.leave\.", "transformer_blocks.{}.norm1.emb.timestep_embedder.linear_2."),
    (r"label_embed\.table\.", "transformer_blocks.{}.norm1.emb.class_embedder.embedding_table."),
)


@dataclass(frozen=True)
class Folder:
    """What is read of a folder of diffusers: of the transformer alone, or of a pipeline with its scheduler.

    config: of the transformer; tensors: its weights, on the CPU; stored: our metadata, if it is an export of ours;
    scheduler, vae: the configuration of each, if there; labels: the pipeline's names of classes by number.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    stored: StoredMetadata | None
    scheduler: dict[str, Any] | None
    vae: dict[str, Any] | None
    labels: dict[str, str]


def read_folder(folder: Path) -> Folder:
    """Raises ValueError for what is no such folder, or a file in it that cannot be read."""
    inner = folder / "transformer" if (folder / "transformer").is_dir() else folder
    config = _json(inner / CONFIG)
    if config is None:
        raise ValueError(f"checkpoint={folder} is no folder of diffusers; give one with transformer/ or {CONFIG} in it")
    stored = None
    if (inner / WEIGHTS).exists():
        stored, tensors = open_safetensors(inner / WEIGHTS, "checkpoint")
    elif (pickled := (inner / WEIGHTS).with_suffix(".bin")).exists():
        tensors = unpickled(pickled, "checkpoint")
    else:
        raise ValueError(f"checkpoint={folder} has no weights; {inner} needs {WEIGHTS} or .bin")
    index = _json(folder / INDEX) or {}
    return Folder(
        config,
        tensors,
        stored,
        _json(folder / "scheduler" / SCHEDULER_CONFIG),
        _json(folder / "vae" / CONFIG),
        index.get("id2label") or {},
    )


def _json(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        contents = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{file} must hold a JSON object, got a {type(contents).__name__}")
    return contents


def arguments_of(folder: Path, said: dict[str, Any]) -> dict[str, Any]:
    """The arguments of our `DiT` that computes what the class computes. ValueError where none does."""
    name = said.get("_class_name")
    if name not in _CLASSES:
        raise ValueError(f"{folder} is of the class {name}; only {CLASS} can be imported")
    for key, only in _FIXED.items():
        if said.get(key, only) != only:
            raise ValueError(f"{folder} has {key}={said[key]!r}; only {only!r} can be imported")
    for key in (*_SIZES, "attention_head_dim"):
        if not isinstance(said.get(key), int):
            raise ValueError(f"{folder} has {key}={said.get(key)!r} in its {CONFIG}; it must be a whole number")
    channels, out_channels = said["in_channels"], said.get("out_channels") or said["in_channels"]
    if out_channels not in (channels, 2 * channels):
        raise ValueError(f"{folder} has out_channels={out_channels}; it must be in_channels={channels}, or twice that")
    return {
        **{ours: said[key] for key, ours in _SIZES.items()},
        "hidden_size": said["num_attention_heads"] * said["attention_head_dim"],
        "learn_variance": out_channels == 2 * channels,
        "time_endpoint": True,
        "mlp_norm_eps": said.get("norm_eps", _NORM_EPS),
    }


def transformer_config(arguments: dict[str, Any]) -> dict[str, Any]:
    """config.json of a network that fits; the inverse of `arguments_of`."""
    return {
        "_class_name": CLASS,
        **{key: arguments[ours] for key, ours in _SIZES.items()},
        "attention_head_dim": arguments["hidden_size"] // arguments["num_heads"],
        "out_channels": (1 + arguments["learn_variance"]) * arguments["channels"],
        "norm_eps": arguments["mlp_norm_eps"],
        **_FIXED,
    }


def to_diffusers(state: dict[str, Tensor], arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Our state dict under their names."""
    theirs = {}
    for name, tensor in state.items():
        if name == "patch_embed.weight":  # a linear of (p q c) is their convolution [W, C, p, p]
            size = arguments["patch_size"]
            tensor = tensor.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2).contiguous()
        if ".qkv." in name:
            theirs |= zip(_names(name, "qkv"), tensor.chunk(3), strict=True)
        else:
            theirs |= {copy: tensor.clone() for copy in _names(name, range(arguments["depth"]))}
    return theirs


def from_diffusers(folder: Path, tensors: dict[str, Tensor], arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Our state dict of their tensors. ValueError, listing the differences, where they are not those of `arguments`, or
    where blocks do not share what our network has once."""
    with torch.device("meta"):
        ours = DiT(**arguments).state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in to_diffusers(ours, arguments).items()}
    table, side = "pos_embed.pos_embed", arguments["image_size"] // arguments["patch_size"]
    positions = sincos_positions(arguments["hidden_size"], side, side)[None]  # [1, N, W]
    saved = {table: tuple(positions.shape)} if table in tensors else {}  # by its early versions
    check_names(folder, CLASS, tensors, expected | saved)
    if saved:
        check_table(folder, CLASS, table, tensors[table], positions)

    state = {}
    for name, target in ours.items():
        if ".qkv." in name:
            state[name] = torch.cat([tensors[part] for part in _names(name, "qkv")])
            continue
        first, *copies = _names(name, range(arguments["depth"]))
        for copy in copies:
            if not torch.equal(tensors[first], tensors[copy]):
                raise ValueError(f"{folder} has other values in {copy} than in {first}; our network has one for both")
        tensor = tensors[first]
        state[name] = (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).reshape(target.shape)
    return state


def _names(name: str, each: Any) -> list[str]:
    """Their names for a tensor of ours: one, or one for `each`."""
    for ours, theirs in _RENAMES:
        if re.match(ours, name):
            renamed = re.sub(ours, theirs, name)
            return [renamed.format(i) for i in each] if "{}" in renamed else [renamed]
    raise AssertionError(name)


def path_and_kind(folder: Path, scheduler: dict[str, Any]) -> tuple[GaussianPath, str]:
    """The path and kind that a scheduler was configured for. ValueError where it is none that we know."""
    if "beta_schedule" not in scheduler:
        raise ValueError(f"{folder} has a {scheduler.get('_class_name')}, which is made of no table of betas")
    if scheduler.get("use_flow_sigmas"):
        raise ValueError(f"{folder} has use_flow_sigmas={scheduler['use_flow_sigmas']!r}, a flow and no table of betas")
    told = _SCHEDULER_DEFAULTS | scheduler
    kinds = {theirs: ours for ours, theirs in _KINDS.items()}
    if told["prediction_type"] not in kinds:
        raise ValueError(
            f"{folder} has prediction_type={told['prediction_type']!r} in its scheduler; known are {', '.join(kinds)}"
        )
    kind, rescaled = kinds[told["prediction_type"]], bool(told["rescale_betas_zero_snr"])
    steps, ends = told["num_train_timesteps"], (told["beta_start"], told["beta_end"])
    if told["trained_betas"] is not None:
        return DiscreteVP(told["trained_betas"], zero_terminal_snr=rescaled), kind
    match told["beta_schedule"]:
        case "linear":
            return DiscreteVP.linear(steps, *ends, zero_terminal_snr=rescaled), kind
        case "scaled_linear":
            return DiscreteVP.scaled_linear(steps, *ends, zero_terminal_snr=rescaled), kind
        case "squaredcos_cap_v2":
            return DiscreteVP.cosine(steps, **_COSINE, zero_terminal_snr=rescaled), kind
    raise ValueError(
        f"{folder} has beta_schedule={told['beta_schedule']!r} in its scheduler; known are "
        f"{', '.join(_SCHEDULES.values())}"
    )


def scheduler_config(spec: dict[str, Any], kind: str) -> dict[str, Any]:
    """scheduler_config.json of a DDIMScheduler for a path and kind that fit; it walks the entries of our grid
    "trailing", and ends at clean data as we do."""
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": spec["steps"],
        "beta_schedule": _SCHEDULES[spec["name"]],
        **{key: spec[key] for key in ("beta_start", "beta_end") if key in spec},
        "trained_betas": None,
        "prediction_type": _KINDS[kind],
        "rescale_betas_zero_snr": spec.get("zero_terminal_snr", False),
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
    }


def pipeline_index(class_names: list[str]) -> dict[str, Any]:
    """model_index.json."""
    return {
        "_class_name": "DiTPipeline",
        "id2label": {str(label): name for label, name in enumerate(class_names)},
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", CLASS],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def check_fits(metadata: Metadata, arguments: dict[str, Any]) -> None:
    """ValueError, naming what does not fit, unless `CLASS` and a DDIMScheduler compute what the metadata say."""
    only = {
        "conditioning": ("adaln_zero",),
        "norm": ("layernorm",),
        "mlp": ("gelu",),
        "position": ("sincos",),
        "qk_norm": (False,),
        "num_kv_heads": (None, arguments["num_heads"]),
        "class_tokens": (0,),
        "bottleneck": (0,),
    }
    unfit = [f"model.{key}={arguments[key]}" for key, fitting in only.items() if arguments[key] not in fitting]
    if int(arguments["hidden_size"] * arguments["mlp_ratio"]) != 4 * arguments["hidden_size"]:
        unfit.append(f"model.mlp_ratio={arguments['mlp_ratio']}")
    if arguments["num_classes"] < 1:
        unfit.append(f"model.num_classes={arguments['num_classes']}")
    spec = metadata.path
    if spec["name"] not in _SCHEDULES or any(spec.get(key, value) != value for key, value in _COSINE.items()):
        unfit.append(f"path {spec['name']}")
    if metadata.kind not in _KINDS:
        unfit.append(f"kind {metadata.kind}")
    if unfit:
        raise ValueError(f"to=diffusers has no {', '.join(unfit)}; its {CLASS} can only be the DiT of the paper")
