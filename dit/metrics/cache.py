"""The score cache: a file is read where it is intact and made again where it is damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from dit.checks import printable
from dit.tensors import open_tensors

T = TypeVar("T")
_log = logging.getLogger(__name__)


def kept(file: Path, load: Callable[[Path], T], make: Callable[[], T], save: Callable[[T, Path], None]) -> T:
    """What `load` reads from `file`; without one, or if it raises ValueError, what `make` gives, saved to `file`."""
    if file.is_file():
        try:
            return load(file)
        except ValueError as error:
            warn_made_again(error)
    made = make()
    save(made, file)
    return made


def warn_made_again(error: ValueError) -> None:
    _log.warning(printable(f"{error}; it is made again"))


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a file that `dit.tensors.save_tensors` wrote.

    Raises ValueError if it is damaged, or of an earlier version, which wrote no digests.
    """
    with open_tensors(file) as opened:
        if not opened.checked:
            raise ValueError(f"{file} is damaged or of an earlier version: it has no digests")
        return opened.tensors(), opened.metadata
