"""THE NETWORK. Tensors only: no diffusion, no Lightning, no configuration."""

from dit.model.dit import DiT, check_compile

__all__ = ["DiT", "check_compile"]
