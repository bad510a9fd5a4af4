"""Where the pictures of a folder lie: root/train/<class>/, root/<class>/, or all together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.files import is_picture
from data.hidden import is_hidden
from dit.checks import printable
from dit.files import given_path

VALIDATION_NAMES = ("val", "validation", "test")
_HELD_OUT = 10  # one in so many of each class, where there is no validation split


@dataclass(frozen=True)
class Layout:
    """train, validation: folders with a folder for each of `names`, or with pictures of the one class there is (flat).
    validation: None where it is held out of train."""

    train: Path
    validation: Path | None
    names: list[str]
    flat: bool

    @staticmethod
    def of(root: str | Path) -> Layout:
        """Classes sorted by name. ValueError for a folder that is not there, or has neither classes nor pictures."""
        root = given_path("data.root", root)
        here = f"data.root={printable(str(root))} must be a folder with train/<class>/ inside, <class>/ or pictures"
        if not root.is_dir():
            raise ValueError(f"{here}; it does not exist")
        train = root / "train" if (root / "train").is_dir() else root
        there = [root / name for name in VALIDATION_NAMES if (root / name).is_dir()]
        names = [name for name in subfolders(train) if train != root or name not in VALIDATION_NAMES]
        if flat := not names:
            if not any(is_picture(f.name) and not is_hidden(f.name) for f in train.iterdir() if f.is_file()):
                raise ValueError(f"{here}; there is nothing of the kind in {printable(str(train))}")
            names = [root.resolve().name or "pictures"]
        return Layout(train, there[0] if there else None, names, flat)

    def folders(self, split: Path) -> dict[str, Path]:
        """Of each class in `train` or `validation`."""
        return {name: split if self.flat else split / name for name in self.names}


def held_out(files: Sequence[Path], labels: Sequence[int], root: Path) -> set[int]:
    """The numbers of the files that validation is made of where it has no folder: of each class a tenth, one at least
    of several, chosen by a hash of the name below `root`, so that most stay where pictures are added."""
    classes: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        classes.setdefault(label, []).append(number)
    chosen: set[int] = set()
    for numbers in classes.values():
        numbers.sort(key=lambda n: hashlib.sha256(os.fsencode(files[n].relative_to(root))).digest())
        chosen |= set(numbers[: max(len(numbers) // _HELD_OUT, int(len(numbers) > 1))])
    return chosen


def subfolders(folder: Path) -> list[str]:
    """Sorted names of those that are not hidden. ValueError where it cannot be listed."""
    try:
        return sorted(f.name for f in folder.iterdir() if f.is_dir() and not is_hidden(f.name))
    except OSError as error:
        raise ValueError(f"cannot list the folder {printable(str(folder))}: {error.strerror or error}") from error
