"""COMPILING: what torch.compile is told, and CUDA graphs whose answers last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

GRAPHS = "reduce-overhead"  # the launches of a whole call are recorded once and replayed
MODES = (GRAPHS, "max-autotune-no-cudagraphs")


def check_compile(backend: str | None, mode: str | None = None) -> None:
    """ValueError for what is no backend of torch.compile, and not None either; for a mode that is none of MODES, and
    for one where inductor does not compile."""
    if backend is not None and backend not in (known := torch.compiler.list_backends(())):
        raise ValueError(f"compile must be null or one of {', '.join(known)}, got {backend!r}")
    if mode is not None and mode not in MODES:
        raise ValueError(f"compile_mode must be null or one of {', '.join(MODES)}, got {mode!r}")
    if mode is not None and backend != "inductor":
        raise ValueError(f"compile_mode={mode} needs compile=inductor, got compile={backend or 'null'}")


def compile_options(backend: str, mode: str | None) -> dict[str, Any] | None:
    """The `options` of torch.compile, which takes no mode beside them."""
    if backend != "inductor":
        return None
    # On a CPU the tanh of every GELU takes half the time as exponentials.
    return {"cpp.use_decompose_tanh": True} | (torch._inductor.list_mode_options(mode) if mode else {})


def compile_whole(network: nn.Module, backend: str, mode: str | None) -> None:
    """torch.compile of a network as one, in place; names of weights stay."""
    network.compile(backend=backend, options=compile_options(backend, mode))
    if mode == GRAPHS:
        network._compiled_call_impl = _lasting(network._compiled_call_impl)


def _lasting(call: Any) -> Any:
    """A graph writes every answer to the same memory, and a solver holds an answer while it asks for the next."""

    def lasting(*args: Any, **kwargs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map_only(Tensor, Tensor.clone, call(*args, **kwargs))

    return lasting
