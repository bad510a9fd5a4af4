"""Latents of an autoencoder back to pixels: for models that were trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Latents:
    """(z - shift) scale is model space, for latents z of diffusers' AutoencoderKL kept in the folder `vae`.

    Raises ValueError, in one sentence, where the folder holds none or diffusers is not installed.
    """

    def __init__(self, vae: str | Path, scale: float, shift: float = 0.0):
        self.folder, self.scale, self.shift = Path(vae), scale, shift
        try:
            from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        except ImportError as error:
            raise ValueError("vae needs the package diffusers: pip install 'ditlab[latent]'") from error
        folder = self.folder / "vae" if (self.folder / "vae").is_dir() else self.folder
        if not (folder / "config.json").is_file():
            raise ValueError(f"vae={vae} must be the folder of a diffusers AutoencoderKL: it has no config.json")
        loaded: Any = AutoencoderKL.from_pretrained(folder, local_files_only=True)
        self.vae = loaded.eval().requires_grad_(False)

    def decode(self, x: Tensor) -> Tensor:
        """Model space [B, C, H, W] -> uint8 pixels [B, 3, 8H, 8W] (8: of the usual autoencoders), on x's device."""
        self.vae.to(x.device)
        pixels = self.vae.decode(x.float() / self.scale + self.shift).sample  # [B, 3, H', W'], -1 to 1
        return ((pixels / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)  # [B, 3, H', W']

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "Latents", "scale": self.scale, "shift": self.shift, "vae": str(self.folder)}
