"""THE NETWORK. Tensors only: no diffusion, no Lightning, no configuration."""

from typing import TYPE_CHECKING

from dit.lazy import on_use

if TYPE_CHECKING:
    from dit.model.compiling import check_compile
    from dit.model.dit import DiT
    from dit.model.network import Condition, Network, Output, blocks_of, class_of, name_of, network_from_spec, register

__all__ = [
    "Condition",
    "DiT",
    "Network",
    "Output",
    "blocks_of",
    "check_compile",
    "class_of",
    "name_of",
    "network_from_spec",
    "register",
]

__getattr__ = on_use(__name__)
