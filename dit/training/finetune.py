"""A run that begins with the weights of another: all of them, or all but the rows of other classes."""

from __future__ import annotations

from typing import Any

import torch

from dit.checkpoint import Loaded, same_normalisation
from dit.model import DiT

_TABLE = "label_embed.table.weight"


def start_from(network: DiT, loaded: Loaded, facts: dict[str, Any]) -> str:
    """Copies the weights of `loaded` into `network`, for pictures of which `facts` tells, and says what it did.

    Where the classes differ, by number or by name, or those of an imported network have no names, the label table keeps
    the fresh rows of `network` but for the null label's. Raises ValueError where the pictures are normalised otherwise,
    or, listing the differences, where anything else does not fit.
    """
    theirs_normalised = loaded.passport["data"]["normalisation"]
    if not same_normalisation(theirs_normalised, facts["normalisation"]):
        raise ValueError(
            f"finetune_from was trained on pictures normalised by {theirs_normalised}, these are by "
            f"{facts['normalisation']}"
        )
    theirs, mine = dict(loaded.network.state_dict()), network.state_dict()
    table = theirs.pop(_TABLE)
    different = [
        f"{key} {_shape(theirs.get(key))} -> {_shape(mine.get(key))}"
        for key in sorted((theirs.keys() | mine.keys()) - {_TABLE})
        if _shape(theirs.get(key)) != _shape(mine.get(key))
    ]
    if different:
        more = f" and {len(different) - 4} more" if len(different) > 4 else ""
        raise ValueError(f"finetune_from has other weights than the model: {', '.join(different[:4])}{more}")
    names = facts["class_names"][: network.num_classes]
    numbered = loaded.class_names == [str(label) for label in range(len(loaded.class_names))]
    nameless = "imported_from" in loaded.passport["config"] and numbered
    same = names == loaded.class_names and not nameless
    with torch.no_grad():
        network.load_state_dict({**theirs, _TABLE: table if same else mine[_TABLE]})
        network.label_embed.table.weight[-1] = table[-1]
    said = f"model, diffusion and every weight are the checkpoint's ({loaded.weights}, step {loaded.step})"
    if not same:
        said += (
            f" but the label table: its {len(loaded.class_names)} classes become {len(names)}, whose rows begin "
            "afresh; the null label's row is kept"
        )
    if (side := loaded.network.image_size) != network.image_size:
        said += f"; it was trained at image_size={side}, this run is at {network.image_size}: positions are made anew"
    return said


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape))
