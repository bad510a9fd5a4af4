"""THE NETWORK. Tensors only: no diffusion, no Lightning, no configuration."""

from dit.model.dit import DiT

__all__ = ["DiT"]
