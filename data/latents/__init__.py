"""THE LATENT CACHE: pictures encoded once, `python -m data.latents`, and trained on from then on, `data=latents`."""

from data.latents.module import Latents

__all__ = ["Latents"]
