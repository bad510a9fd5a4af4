"""What a data module tells of its pictures to whoever wants to look at them before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.split import Split


class Survey(NamedTuple):
    """Both splits as they are, files that cannot be read included.

    refused, warned: sentences that training would end or begin with; ignored: files beside the pictures; skips: whether
    training leaves out files that cannot be read.
    """

    train: Split
    validation: Split
    refused: Sequence[str] = ()
    warned: Sequence[str] = ()
    ignored: Sequence[Path] = ()
    skips: bool = False
