"""THE LATENT CACHE: pictures encoded once, `python -m data.latents`, and trained on from then on, `data=latents`."""

from typing import TYPE_CHECKING

from dit.lazy import on_use

if TYPE_CHECKING:
    from data.latents.module import Latents

__all__ = ["Latents"]

__getattr__ = on_use(__name__)
