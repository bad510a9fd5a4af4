"""Some classes of a split, some of their pictures: for quick sweeps, the same ones every time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.order import Pick
from data.split import Split


class Subset(Split):
    """The classes `keep`, labels of the whole that become 0 ... K - 1, and of each the share `fraction`, at least one.

    Which pictures is a fixed shuffle: a smaller fraction is part of a larger one.
    """

    def __init__(self, parent: Split, keep: Sequence[int], fraction: float = 1.0):
        self._parent = parent
        chosen, labels = [], []
        for new, old in enumerate(keep):
            members = (parent.labels == old).nonzero().flatten()  # [n]
            order = torch.randperm(len(members), generator=torch.Generator().manual_seed(old))
            some = members[order[: math.ceil(fraction * len(members))]].sort().values
            chosen.append(some)
            labels.append(torch.full_like(some, new))
        self._chosen, self.labels = torch.cat(chosen), torch.cat(labels)

    def images(self, picks: Sequence[Pick]) -> Tensor:
        return self._parent.images([pick._replace(index=int(self._chosen[pick.index])) for pick in picks])

    def files(self) -> list[Path] | None:
        files = self._parent.files()
        return None if files is None else [files[number] for number in self._chosen.tolist()]
