"""What the shapes of a checkpoint in the names of DiT's own code tell about its network."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dit.checkpoint.differences import check_names

# Neither the heads nor the block from which JiT's class tokens stand can be read from shapes; these were published.
_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1536: 24, 1792: 28}  # by width
_CLASS_TOKENS_FROM = {12: 4, 24: 8, 32: 10}  # by depth
_LAYERNORM_EPS = 1e-5  # PyTorch's, which queries and keys have wherever they have a LayerNorm


@dataclass(frozen=True)
class Hints:
    """What the caller says of a network where its shapes cannot: see `import_loaded`."""

    num_heads: int | None = None
    num_classes: int | None = None
    class_tokens_from: int | None = None

    def check_unused(self, source: str, *names: str) -> None:
        """ValueError for one of `names` that was given."""
        for name in names:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)} cannot be told of source={source}; leave it out")


def arguments_of(
    file: Path, what: str, tensors: dict[str, Tensor], told: Hints, *, modern: bool, qk_norm: bool, position: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of our `DiT`, without learn_variance; and those by which the network was built otherwise, with it.

    modern: look for RMSNorm, SwiGLU and class tokens. qk_norm: look for norms of queries and keys. position: None to
    look for tables of rotation. Raises ValueError where a tensor that tells is missing, or something cannot be told.
    """
    narrow = modern and "x_embedder.proj1.weight" in tensors
    gated = modern and "blocks.0.mlp.w12.weight" in tensors
    enter = f"blocks.0.mlp.{'w12' if gated else 'fc1'}.weight"
    telling = {f"x_embedder.{'proj1' if narrow else 'proj'}.weight": 4, "pos_embed": 3, enter: 2}
    telling |= {"y_embedder.embedding_table.weight": 2, "final_layer.linear.weight": 2}
    _check_telling(file, what, tensors, telling)
    (embed, channels, patch, _), (_, tokens, width), (inner, _), (rows, _), (values, _) = (
        tuple(tensors[name].shape) for name in telling
    )

    side = math.isqrt(tokens)
    if side**2 != tokens:
        raise ValueError(f"{file} is no {what}: pos_embed has {tokens} tokens, which make no square")
    depth = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name)))
    arguments = {
        "image_size": side * patch,
        "channels": channels,
        "num_classes": rows - 1 if told.num_classes is None else told.num_classes,
        "patch_size": patch,
        "hidden_size": width,
        "depth": depth,
        "num_heads": _heads(file, tensors, width, told.num_heads),
        "mlp_ratio": _gated_ratio(inner // 2, width) if gated else _ratio(inner, width),
        "position": position or ("sincos_rope" if "feat_rope.freqs_cos" in tensors else "sincos"),
    }
    if rows not in (arguments["num_classes"], arguments["num_classes"] + 1):
        raise ValueError(f"num_classes={told.num_classes} does not fit the {rows} rows of the label table in {file}")
    if modern:
        arguments |= {
            "norm": "rmsnorm" if "blocks.0.norm1.weight" in tensors else "layernorm",
            "mlp": "swiglu" if gated else "gelu",
            "bottleneck": embed if narrow else 0,
        }
    if qk_norm:
        arguments["qk_norm"] = "blocks.0.attn.q_norm.weight" in tensors
        if arguments.get("norm", "layernorm") == "layernorm":
            arguments["qk_norm_eps"] = _LAYERNORM_EPS
    if modern and "in_context_posemb" in tensors:
        arguments["class_tokens"] = tensors["in_context_posemb"].shape[-2]
        arguments["class_tokens_from"] = _class_tokens_from(file, depth, told.class_tokens_from)
    elif told.class_tokens_from is not None:
        raise ValueError(f"class_tokens_from={told.class_tokens_from} does not fit {file}, which has no class tokens")
    return arguments, {"num_classes": rows - 1, "learn_variance": values == 2 * patch**2 * channels}


def _check_telling(file: Path, what: str, tensors: dict[str, Tensor], ranks: dict[str, int]) -> None:
    """ValueError unless there are tensors of these names with so many axes."""
    present = {name: tensors[name] for name in ranks if name in tensors}
    check_names(file, what, present, {name: tuple(present[name].shape) if name in present else () for name in ranks})
    for name, rank in ranks.items():
        if present[name].ndim != rank:
            raise ValueError(f"{file} is no {what}: {name} has {present[name].ndim} axes, expected {rank}")


def _heads(file: Path, tensors: dict[str, Tensor], width: int, told: int | None) -> int:
    if told is not None:
        return told
    # Both are as wide as a head.
    for name in ("blocks.0.attn.q_norm.weight", "feat_rope.freqs_cos"):
        if name in tensors and tensors[name].ndim and 0 < tensors[name].shape[-1] <= width:
            return width // tensors[name].shape[-1]
    if width not in _HEADS:
        raise ValueError(f"{file} has width {width}, of which no number of heads was published; give num_heads")
    return _HEADS[width]


def _class_tokens_from(file: Path, depth: int, told: int | None) -> int:
    if told is None and depth not in _CLASS_TOKENS_FROM:
        raise ValueError(
            f"{file} has class tokens and {depth} blocks, of which no first block was published; give class_tokens_from"
        )
    return _CLASS_TOKENS_FROM[depth] if told is None else told


def _ratio(inner: int, width: int) -> float:
    """The mlp_ratio of which int(width mlp_ratio) is `inner`."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else math.nextafter(ratio, math.inf)


def _gated_ratio(inner: int, width: int) -> float:
    """The mlp_ratio of which SwiGLU takes two thirds to be `inner` wide; 4, the published one, where it fits."""
    return 4.0 if 4 * width * 2 // 3 == inner else _ratio((3 * inner + 1) // 2, width)
