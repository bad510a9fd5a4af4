"""diffusers' AutoencoderKL: pixels to the moments of their latents, and latents back to pixels."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from dit.checks import shown


class Autoencoder:
    """The AutoencoderKL in the folder `vae` (or in its folder vae/, as pipelines have it), or of that name on the hub.

    slicing: one picture at a time; tiling: pictures larger than it was trained on in overlapping tiles; both save
    memory. fetch: download what the hub has of that name; False for a name that a file says, which is then looked for
    on this machine alone. Everything runs in float32: the autoencoder of Stable Diffusion 1 overflows in half
    precision.

    Raises ValueError, in one sentence, where there is none or diffusers is not installed.
    """

    def __init__(self, vae: str | Path, slicing: bool = False, tiling: bool = False, fetch: bool = True):
        try:
            from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        except ImportError as error:
            raise ValueError("vae needs the package diffusers: pip install 'ditlab[latent]'") from error
        folder = Path(vae).expanduser()
        self.name = str(folder.resolve()) if folder.is_dir() else str(vae)
        folder = folder / "vae" if (folder / "vae").is_dir() else folder
        on_hub = not folder.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(vae)) is not None
        if not on_hub and not (folder / "config.json").is_file():
            raise ValueError(
                f"vae={vae} must be the folder of a diffusers AutoencoderKL, with a config.json, or its name on the hub"
            )
        try:
            loaded: Any = AutoencoderKL.from_pretrained(
                str(vae) if on_hub else folder, local_files_only=not (on_hub and fetch), low_cpu_mem_usage=False
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            if on_hub and not fetch:
                raise ValueError(
                    f"these latents are of the autoencoder {shown(str(vae))}, which is not on this machine; give its "
                    "folder, vae=DIR, or its name, if you trust it, to fetch it from the hub"
                ) from error
            where = "from the hub" if on_hub else "from its folder"
            raise ValueError(f"vae={vae} cannot be loaded {where}: {str(error).partition(chr(10))[0]}") from error
        self.network = loaded.float().eval().requires_grad_(False)
        if slicing:
            loaded.enable_slicing()
        if tiling:
            loaded.enable_tiling()

    @property
    def channels(self) -> tuple[int, int]:
        """Of pictures and of latents."""
        return self.network.config.in_channels, self.network.config.latent_channels

    @property
    def factor(self) -> int:
        """Pixels a side of a latent."""
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    @property
    def scale_and_shift(self) -> tuple[float, float]:
        """The scaling_factor and shift_factor it was released with."""
        return float(self.network.config.scaling_factor), float(self.network.config.shift_factor or 0.0)

    @cached_property
    def hash(self) -> str:
        """Of the weights, whatever the file they came in."""
        digest = hashlib.blake2b(digest_size=16)
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(weight.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> mean and log-variance of the latents, one after the other, [B, 2C, H/f, W/f]."""
        self.network.to(pixels.device)
        distribution = self.network.encode(pixels.float() / 127.5 - 1).latent_dist
        return torch.cat([distribution.mean, distribution.logvar], dim=1)  # [B, 2C, H/f, W/f]

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> uint8 [B, 3, f h, f w], on the same device."""
        self.network.to(z.device)
        pixels = self.network.decode(z.float()).sample  # [B, 3, f h, f w], -1 to 1
        return ((pixels / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)  # [B, 3, f h, f w]


class LatentCodec:
    """Latents z and model space, (z - shift) scale, each a number or one a channel; `decode` goes on to pixels.

    vae: the autoencoder's folder or name; vae_hash: of its weights, if known, and another one is refused. fetch: see
    `Autoencoder`.
    """

    def __init__(
        self,
        vae: str | None,
        scale: float | list[float],
        shift: float | list[float] = 0.0,
        vae_hash: str | None = None,
        slicing: bool = False,
        tiling: bool = False,
        fetch: bool = False,
    ):
        self.vae, self.scale, self.shift, self.vae_hash = vae, scale, shift, vae_hash
        self._options = {"slicing": slicing, "tiling": tiling, "fetch": fetch}

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """Loaded when first needed: training needs none. ValueError where it cannot be had, or is another one."""
        if self.vae is None:
            raise ValueError("vae must name a diffusers AutoencoderKL, by folder or on the hub: these are latents")
        autoencoder = Autoencoder(self.vae, **self._options)
        if self.vae_hash not in (None, autoencoder.hash):
            raise ValueError(
                f"vae={self.vae} is another autoencoder than these latents are of: its weights have the hash "
                f"{autoencoder.hash}, theirs had {self.vae_hash}"
            )
        return autoencoder

    def encode(self, z: Tensor) -> Tensor:
        """Latents [B, C, H, W] -> model space."""
        return (z.float() - _by_channel(self.shift, z)) * _by_channel(self.scale, z)  # [B, C, H, W]

    def decode(self, x: Tensor) -> Tensor:
        """Model space [B, C, H, W] -> uint8 [B, 3, f H, f W]."""
        return self.autoencoder.decode(x.float() / _by_channel(self.scale, x) + _by_channel(self.shift, x))

    @property
    def spec(self) -> dict[str, Any]:
        known = {"name": "Latents", "scale": self.scale, "shift": self.shift, "vae": self.vae}
        return known if self.vae_hash is None else {**known, "vae_hash": self.vae_hash}


def _by_channel(value: float | list[float], like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device=like.device).reshape(-1, 1, 1)  # [1 or C, 1, 1]
