"""From what a checkpoint says of its normalisation to what turns samples into pixels."""

from __future__ import annotations

from functools import partial
from typing import Any

from dit.checks import built
from dit.codec.autoencoder import LatentCodec
from dit.codec.pixels import Pixels


def codec_from_spec(
    spec: dict[str, Any], vae: str | None = None, slicing: bool = False, tiling: bool = False
) -> Pixels | LatentCodec:
    """The codec that `spec` describes. Latents are decoded by the autoencoder `vae`, or else the one the checkpoint
    names, if it is on this machine: only `vae` is fetched from the hub. slicing and tiling are as in `Autoencoder`.

    Raises ValueError for a codec this version does not know, and where `vae` is missing, is another one than the
    checkpoint's, or has nothing to decode.
    """
    codec = built("normalisation", spec, {"Pixels": Pixels, "Latents": _latents})
    if isinstance(codec, Pixels):
        for key, given in {"vae": vae, "vae_slicing": slicing or None, "vae_tiling": tiling or None}.items():
            if given is not None:
                raise ValueError(f"{key}={given} has nothing to decode: this model makes pixels")
        return codec
    decoder = (
        codec(slicing=slicing, tiling=tiling)
        if vae is None
        else codec(vae=vae, fetch=True, slicing=slicing, tiling=tiling)
    )
    assert decoder.autoencoder is not None  # now, and not after an hour of sampling
    return decoder


def _latents(
    scale: float | list[float] | None,
    shift: float | list[float] = 0.0,
    vae: str | None = None,
    vae_hash: str | None = None,
) -> partial[LatentCodec]:
    """What a file may say of latents; whether anything is fetched is not for it to say."""
    if scale is None:
        raise ValueError("this model's latents are scaled by statistics its checkpoint does not hold")
    return partial(LatentCodec, vae=vae, scale=scale, shift=shift, vae_hash=vae_hash)
