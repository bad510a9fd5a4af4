"""Small autoencoders with random weights, and caches made with them."""

import diffusers
import torch

from data import Latents, Synthetic
from data.latents.encode import begin, encode, finish, make_plan, missing
from data.latents.manifest import Manifest
from dit.codec import Autoencoder

CPU = torch.device("cpu")


def save_vae(folder, seed=0, **changes):
    torch.manual_seed(seed)
    settings = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 3, "scaling_factor": 0.5}
    settings |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    diffusers.AutoencoderKL(**{**settings, **changes}).save_pretrained(folder)
    return str(folder)


PICTURES = {"pictures": 50, "image_size": 16, "channels": 3, "num_classes": 4, "batch_size": 8}


def pictures(**changes):
    data = Synthetic(**{**PICTURES, **changes})
    data.setup()
    return data


def autoencoder(vae, **options):
    return Autoencoder(vae, **options)


def cache(out, vae, data=None, dtype="float32", shard_size=16, source=None, ranks=((0, 1),), batch_size=8):
    data, encoder = data or pictures(), autoencoder(vae)
    plan = make_plan(data, encoder, dtype, shard_size, source)
    begin(plan, data, out)
    for rank, world_size in ranks:
        list(encode(missing(plan, out, rank, world_size), plan, data, encoder, out, batch_size, CPU))
    return finish(plan, out)


def latents(root, **changes):
    plan = Manifest.read(root).plan
    settings = {"image_size": plan.latent_size, "channels": plan.channels, "num_classes": 4, "batch_size": 8}
    data = Latents(root=str(root), **{**settings, **changes})
    data.setup()
    return data


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}
