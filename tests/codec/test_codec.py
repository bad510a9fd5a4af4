"""From model space to pictures and back, by what a checkpoint says of its normalisation."""

import sys

import pytest
import torch

from dit.codec import Pixels, codec_from_spec


def test_pixels_round_trip_and_map_onto_minus_one_to_one():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    for codec in (Pixels(), Pixels(mean=0.3, std=0.2)):
        again = codec_from_spec(codec.spec)
        assert torch.equal(again.decode(codec.encode(every)), every)
    assert Pixels().encode(every).aminmax() == (-1, 1)
    assert Pixels().decode(torch.tensor([[-3.0, 0.0, 3.0]])).tolist() == [[0, 128, 255]]
    with pytest.raises(ValueError, match="normalisation 'Bits' is unknown; known are Pixels, Latents"):
        codec_from_spec({"name": "Bits"})
    with pytest.raises(ValueError, match="vae=there has nothing to decode: this model makes pixels"):
        codec_from_spec(Pixels().spec, vae="there")


@pytest.mark.parametrize("folder", ["", "vae"], ids=["its own folder", "a pipeline's folder"])
def test_latents_are_decoded_by_their_autoencoder(folder, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, latent_channels=4)
    vae.save_pretrained(tmp_path / folder)
    codec = codec_from_spec({"name": "Latents", "scale": 0.5, "shift": 0.1}, vae=str(tmp_path))
    z = torch.randn(2, 4, 8, 8)
    pixels = codec.decode((z - 0.1) * 0.5)
    with torch.no_grad():
        expected = (vae.decode(z).sample.clamp(-1, 1) + 1) * 127.5
    assert pixels.dtype == torch.uint8
    assert pixels.shape == expected.shape
    assert (pixels.float() - expected).abs().max() <= 0.51  # rounded to bytes
    again = codec_from_spec(codec.spec)
    assert torch.equal(again.decode(z), codec.decode(z))


def test_latents_without_an_autoencoder_are_refused(tmp_path, monkeypatch):
    latents = {"name": "Latents", "scale": 0.5}
    with pytest.raises(ValueError, match="vae must name a diffusers AutoencoderKL, by folder or on the hub"):
        codec_from_spec(latents)
    with pytest.raises(ValueError, match=r"vae=.* must be the folder of a .* AutoencoderKL, with a config\.json"):
        codec_from_spec(latents, vae=str(tmp_path))
    with pytest.raises(ValueError, match="scaled by statistics its checkpoint does not hold"):
        codec_from_spec({"name": "Latents", "scale": None})
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(ValueError, match=r"vae needs the package diffusers: pip install 'ditlab\[latent\]'"):
        codec_from_spec(latents, vae=str(tmp_path))
