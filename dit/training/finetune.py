"""A run that begins with the weights of another: all of them, or all but the rows of other classes."""

from __future__ import annotations

from typing import Any

import torch

from dit.checkpoint import Model, same_codec
from dit.model import Network


def start_from(network: Network, loaded: Model, facts: dict[str, Any]) -> str:
    """Copies the weights of `loaded` into `network`, for pictures of which `facts` tells, and says what it did.

    Where the classes differ, by number or by name, or those of an imported network have no names, the label table keeps
    the fresh rows of `network` but for the null label's. Raises ValueError where the pictures are normalised otherwise,
    or, listing the differences, where anything else does not fit.
    """
    if not same_codec(loaded.metadata.codec, facts["codec"]):
        raise ValueError(
            f"finetune_from was trained on pictures normalised by {loaded.metadata.codec}, these are by "
            f"{facts['codec']}"
        )
    theirs, mine = dict(loaded.network.state_dict()), network.state_dict()
    name = network.LABEL_TABLE
    table = None if name is None else theirs.pop(name)
    different = [
        f"{key} {_shape(theirs.get(key))} -> {_shape(mine.get(key))}"
        for key in sorted((theirs.keys() | mine.keys()) - {name})
        if _shape(theirs.get(key)) != _shape(mine.get(key))
    ]
    if different:
        more = f" and {len(different) - 4} more" if len(different) > 4 else ""
        raise ValueError(f"finetune_from has other weights than the model: {', '.join(different[:4])}{more}")
    names = facts["class_names"][: network.num_classes]
    numbered = loaded.class_names == [str(label) for label in range(len(loaded.class_names))]
    nameless = loaded.metadata.pictures is None and numbered
    same = names == loaded.class_names and not nameless
    if name is not None and table is not None:
        theirs[name] = table if same else torch.cat([mine[name][:-1], table[-1:]])
    elif not same:
        raise ValueError(
            f"finetune_from has the classes {', '.join(loaded.class_names[:4])}, these are {', '.join(names[:4])}, and "
            "its network has no table of labels whose rows could begin afresh"
        )
    network.load_state_dict(theirs)
    said = f"model, diffusion and every weight are the checkpoint's ({loaded.weights}, step {loaded.step})"
    if not same:
        said += (
            f" but the label table: its {len(loaded.class_names)} classes become {len(names)}, whose rows begin "
            "afresh; the null label's row is kept"
        )
    if (side := loaded.shape[1]) != network.sample_shape[1]:
        mine_side = network.sample_shape[1]
        said += f"; it was trained at image_size={side}, this run is at {mine_side}: positions are made anew"
    return said


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape))
