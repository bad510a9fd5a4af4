"""A checkpoint of ours with random weights, as train.py writes it."""

import torch

from dit.checkpoint import Metadata
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


PIXELS = {"name": "Pixels", "mean": 0.5, "std": 0.5}
METADATA = Metadata(
    network=DiT(**SIZES).spec,
    path=DiscreteVP.linear().spec,
    kind="eps",
    image_size=8,
    channels=4,
    num_classes=3,
    class_names=NAMES,
    codec=PIXELS,
    dropout={"class": 0.1},
)


def passport(metadata):
    """The same as ditlab 0.1 wrote it."""
    told = {"augment_dim": metadata.conditions["augment"][0]} if metadata.conditions else {}
    network = {key: value for key, value in metadata.network.items() if key != "name"}
    facts = {key: getattr(metadata, key) for key in ("image_size", "channels", "num_classes", "class_names")}
    return {
        "model": {**network, "class_dropout": metadata.dropout["class"]},
        **{key: getattr(metadata, key) for key in ("path", "kind", "sigma_data", "pictures", "config")},
        "data": {**facts, "normalisation": metadata.codec, **told},
    }


PASSPORT = passport(METADATA)


def random_weights(network, seed):
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(v.shape, generator=generator) * 0.2 for k, v in network.state_dict().items()}


def checkpoint(file, path=None, kind="eps", names=NAMES, dropout=0.1, **axes):
    """Writes `file`, with raw weights and two averages."""
    network = DiT(**SIZES | {"num_classes": len(names)} | axes)
    raw, first, second = (random_weights(network, seed) for seed in range(3))
    metadata = Metadata(
        network=network.spec,
        path=(path or DiscreteVP.linear()).spec,
        kind=kind,
        sigma_data=0.5,
        **{key: network.arguments[key] for key in ("image_size", "channels", "num_classes")},
        class_names=list(names),
        codec=PIXELS,
        dropout={"class": dropout},
        config={"note": "tiny", "nested": {"list": [1, 2.5, None]}},
    )
    contents = {
        "state_dict": {f"network.{k}": v for k, v in raw.items()},
        "ema": {"averages": {"0.999": first, "0.9": second}},
        "metadata": metadata.to_dict(),
        "global_step": 1234,
    }
    torch.save(contents, file)
    return file
