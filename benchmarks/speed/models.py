"""The models that are compared: a preset of ours, and diffusers' transformer of the same shape."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dit.model import DiT
from dit.model.__main__ import presets

Call = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x [B, C, H, W], time [B], labels [B]) -> [B, C, H, W]
TINY = {"image_size": 16, "patch_size": 2, "hidden_size": 64, "depth": 2, "num_heads": 2}  # of --quick


def arguments(name: str) -> dict[str, Any]:
    """Of our DiT: s2 is DiT-S with patches of 2, on latents of 32 x 32 x 4 with 1000 classes; digits is the demo's.

    Raises ValueError for another name.
    """
    known = presets()
    if name == "digits":
        return known["dit_digits"]
    if name == "tiny":
        return known["dit_s"] | TINY
    found = re.fullmatch(r"(s|b|l|xl)([248])", name)
    if found is None:
        raise ValueError(f"--models must be digits, or s, b, l or xl with a patch size of 2, 4 or 8, got {name!r}")
    return known[f"dit_{found[1]}"] | {"patch_size": int(found[2])}


def tokens(name: str) -> int:
    size = arguments(name)
    return (size["image_size"] // size["patch_size"]) ** 2


def ours(name: str, **changes: Any) -> DiT:
    torch.manual_seed(0)
    return awake(DiT(**arguments(name) | changes))


def diffusers(name: str) -> nn.Module:
    """diffusers' DiTTransformer2DModel. It has an embedding of times and labels in each block, where ours has one."""
    from diffusers import DiTTransformer2DModel

    size = arguments(name)
    torch.manual_seed(0)
    return awake(
        DiTTransformer2DModel(
            num_attention_heads=size["num_heads"],
            attention_head_dim=size["hidden_size"] // size["num_heads"],
            in_channels=size["channels"],
            out_channels=size["channels"],
            num_layers=size["depth"],
            sample_size=size["image_size"],
            patch_size=size["patch_size"],
            num_embeds_ada_norm=size["num_classes"],
            norm_type="ada_norm_zero",
        )
    )


def awake(network):
    """With numbers where training begins at zero, so that all gradients are there, as they are after a few steps."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def call_of(network: nn.Module) -> Call:
    if isinstance(network, DiT):
        return network
    return lambda x, time, labels: network(x, timestep=time, class_labels=labels).sample


def twin(network):
    """A second module on the same weights: one of them can be compiled, and memory is taken once."""
    shared = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared})


def compiled(network, whole: bool):
    """A twin, compiled by inductor as a whole or block by block."""
    other = twin(network)
    if whole:
        other.compile()
    elif isinstance(other, DiT):
        other.compile_in_place("inductor")
    else:  # diffusers' compile_repeated_blocks does the same for models that list their blocks; this one does not
        for block in other.transformer_blocks:
            block.compile(fullgraph=True)
    return other


def random_batch(name: str, batch: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [B, C, H, W], times [B] and labels [B]."""
    size, generator = arguments(name), torch.Generator().manual_seed(0)
    x = torch.randn(batch, size["channels"], size["image_size"], size["image_size"], generator=generator)
    time = torch.randint(999, (batch,), generator=generator)
    labels = torch.randint(size["num_classes"], (batch,), generator=generator)
    return x.to(device), time.to(device), labels.to(device)


def forward_flops(network: nn.Module, name: str) -> int:
    """Of one picture; a multiply-add is two."""
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call_of(network)(*random_batch(name, 1, str(device)))
    return counter.get_total_flops()


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
