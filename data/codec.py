"""From what a checkpoint says of its normalisation to what turns samples into pixels."""

from __future__ import annotations

from typing import Any

from data.latents import Latents
from data.pixels import Pixels


def codec_from_spec(spec: dict[str, Any], vae: str | None = None) -> Pixels | Latents:
    """The codec that `spec` describes; latents are decoded by the autoencoder in the folder `vae`.

    Raises ValueError for a codec this version does not know, and where `vae` is missing or has nothing to decode.
    """
    arguments = dict(spec)
    match arguments.pop("name", None):
        case "Pixels":
            if vae is not None:
                raise ValueError(f"vae={vae} has nothing to decode: this model makes pixels")
            return Pixels(**arguments)
        case "Latents":
            if arguments["scale"] is None:
                raise ValueError("this model's latents are scaled by statistics its checkpoint does not hold")
            if (vae := vae or arguments.get("vae")) is None:
                raise ValueError("vae must be the folder of a diffusers AutoencoderKL: this model makes latents")
            return Latents(**{**arguments, "vae": vae})
        case name:
            raise ValueError(f"normalisation {name!r} is unknown; known are Pixels, Latents")
