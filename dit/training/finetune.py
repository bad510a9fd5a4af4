"""A run that begins with the weights of another: all of them, or all but the rows of other classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dit.checkpoint import Loaded
from dit.model import DiT

_TABLE = "label_embed.table.weight"


def start_from(network: DiT, loaded: Loaded, class_names: Sequence[str]) -> str:
    """Copies the weights of `loaded` into `network`, and says in a sentence what it did.

    Where the classes differ (`class_names` of the new pictures), the label table keeps the fresh rows of `network`
    but for the null label's. Raises ValueError, listing the differences, where anything else does not fit.
    """
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
    names = list(class_names)[: network.num_classes]
    same = names == loaded.class_names
    with torch.no_grad():
        network.load_state_dict({**theirs, _TABLE: table if same else mine[_TABLE]})
        network.label_embed.table.weight[-1] = table[-1]
    if same:
        return f"every weight is from the checkpoint ({loaded.weights}, step {loaded.step})"
    return (
        f"every weight is from the checkpoint ({loaded.weights}, step {loaded.step}) but the label table's: its "
        f"{len(loaded.class_names)} classes become {len(names)}, whose rows begin afresh; the null label's row is kept"
    )


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape))
