"""The share of the images that falls to this process."""

from __future__ import annotations

import torch

from dit.launch.devices import pick_device
from dit.launch.group import this_group
from dit.metrics import Share


def share_of(device: str) -> Share:
    """This process's place among those of its job, and its device: a GPU for each process of a machine, but for one
    that was named with its number."""
    group = this_group()
    picked = pick_device(device)
    if group is None:
        return Share(0, 1, picked)
    if picked.type != "cpu" and picked.index is None:
        picked = torch.device(picked.type, group.rank % group.local_size)
    return Share(group.rank, group.size, picked)
