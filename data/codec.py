"""From what a checkpoint says of its normalisation to what turns samples into pixels."""

from __future__ import annotations

from typing import Any

from data.autoencoder import LatentCodec
from data.pixels import Pixels


def codec_from_spec(
    spec: dict[str, Any], vae: str | None = None, slicing: bool = False, tiling: bool = False
) -> Pixels | LatentCodec:
    """The codec that `spec` describes. Latents are decoded by the autoencoder `vae`, or else the one the checkpoint
    names; slicing and tiling are as in `Autoencoder`.

    Raises ValueError for a codec this version does not know, and where `vae` is missing, is another one than the
    checkpoint's, or has nothing to decode.
    """
    arguments = dict(spec)
    match arguments.pop("name", None):
        case "Pixels":
            for key, given in {"vae": vae, "vae_slicing": slicing or None, "vae_tiling": tiling or None}.items():
                if given is not None:
                    raise ValueError(f"{key}={given} has nothing to decode: this model makes pixels")
            return Pixels(**arguments)
        case "Latents":
            if arguments["scale"] is None:
                raise ValueError("this model's latents are scaled by statistics its checkpoint does not hold")
            arguments["vae"] = vae or arguments.get("vae")
            codec = LatentCodec(**arguments, slicing=slicing, tiling=tiling)
            assert codec.autoencoder is not None  # now, and not after an hour of sampling
            return codec
        case name:
            raise ValueError(f"normalisation {name!r} is unknown; known are Pixels, Latents")
