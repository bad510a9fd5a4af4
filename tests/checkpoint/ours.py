"""A checkpoint of ours with random weights, as train.py writes it."""

import torch

from dit.diffusion import DiscreteVP
from dit.model import DiT

SIZES = {
    "image_size": 8,
    "channels": 4,
    "num_classes": 3,
    "patch_size": 2,
    "hidden_size": 24,
    "depth": 2,
    "num_heads": 2,
}
NAMES = ["hen", "newt", "toad, frog"]


PASSPORT = {
    "model": DiT(**SIZES).arguments,
    "path": DiscreteVP.linear().spec,
    "kind": "eps",
    "sigma_data": 1.0,
    "data": {
        "image_size": 8,
        "channels": 4,
        "num_classes": 3,
        "class_names": NAMES,
        "normalisation": {"name": "Pixels", "mean": 0.5, "std": 0.5},
    },
    "pictures": None,
    "config": {},
}


def random_weights(network, seed):
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(v.shape, generator=generator) * 0.2 for k, v in network.state_dict().items()}


def checkpoint(file, path=None, kind="eps", names=NAMES, **axes):
    """Writes `file`, with raw weights and two averages."""
    network = DiT(**SIZES | {"num_classes": len(names)} | axes)
    raw, first, second = (random_weights(network, seed) for seed in range(3))
    facts = {key: network.arguments[key] for key in ("image_size", "channels", "num_classes")}
    passport = {
        "model": network.arguments,
        "path": (path or DiscreteVP.linear()).spec,
        "kind": kind,
        "sigma_data": 0.5,
        "data": facts | {"class_names": list(names), "normalisation": {"name": "Pixels", "mean": 0.5, "std": 0.5}},
        "config": {"note": "tiny", "nested": {"list": [1, 2.5, None]}},
    }
    contents = {
        "state_dict": {f"network.{k}": v for k, v in raw.items()},
        "ema": {"averages": {"0.999": first, "0.9": second}},
        "passport": passport,
        "global_step": 1234,
    }
    torch.save(contents, file)
    return file
