"""PIXELS AND LATENTS: model space to pictures and back; checkpoints hold a codec's `spec`."""

from dit.codec.autoencoder import Autoencoder, LatentCodec
from dit.codec.pixels import Pixels
from dit.codec.spec import codec_from_spec

__all__ = ["Autoencoder", "LatentCodec", "Pixels", "codec_from_spec"]
