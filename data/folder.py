"""Any tree of root/split/class/picture, ImageNet's layout included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from data.crop import CROPS, Crop
from data.files import ENDINGS, counted, in_threads, is_picture, list_pictures, look, read_picture, unread
from data.hidden import is_hidden
from data.order import Pick
from data.pictures import Pictures
from data.split import Split
from data.survey import Survey
from dit.checks import printable, shown
from dit.files import given_path

_VALIDATION_NAMES = ("val", "validation", "test")
_ENDINGS = f"pictures end in {', '.join(ENDINGS)}"


class FolderSplit(Split):
    """The pictures of one split, decoded on demand and made square by `crop`.

    ignored: files beside them; unlisted: sentences on folders that could not be listed.
    """

    def __init__(self, root: Path, class_names: list[str], image_size: int, channels: int, crop: Crop):
        self.root, self._image_size, self._mode, self._crop = root, image_size, {1: "L", 3: "RGB"}[channels], crop
        self._files: list[Path] = []
        self.ignored: list[Path] = []
        self.unlisted: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(class_names):
            if (root / name).is_dir():
                listing = list_pictures(root / name)
                self._files += listing.pictures
                self.ignored += listing.ignored
                self.unlisted += listing.unlisted
                labels += [label] * len(listing.pictures)
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def images(self, picks: Sequence[Pick]) -> Tensor:
        squares = [self._square(pick) for pick in picks]
        return torch.stack([s.flip(-1) if pick.mirrored else s for s, pick in zip(squares, picks, strict=True)])

    def _square(self, pick: Pick) -> Tensor:
        picture = read_picture(self._files[pick.index], self._mode, self._image_size)
        return self._crop(picture, self._image_size, pick.draw)  # [C, S, S]

    def files(self) -> list[Path]:
        return self._files

    def check(self) -> None:
        """ValueError naming the first file that cannot be read, without decoding those that are whole."""
        for reason in self._faults():
            if reason is not None:
                raise ValueError(
                    f"{reason}; data.on_error=skip leaves such files out, and python -m data.inspect lists all of them"
                )

    def drop_unreadable(self) -> None:
        """Leaves out the files that cannot be read, and warns of them with their number and the first reasons."""
        faults = list(self._faults())
        bad = [reason for reason in faults if reason is not None]
        if bad:
            more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
            rank_zero_warn(
                f"data.on_error=skip leaves out {len(bad)} of {len(faults):,} pictures of {printable(str(self.root))}: "
                f"{'; '.join(bad[:3])}{more}"
            )
            kept = [number for number, reason in enumerate(faults) if reason is None]
            self._files, self.labels = [self._files[number] for number in kept], self.labels[kept]

    def _faults(self) -> Iterator[str | None]:
        """What is wrong with each file, in order."""
        return (seen.fault for seen in in_threads(look, self._files))


class Folder(Pictures):
    """Pictures in root/train/<class>/ and root/val|validation|test/<class>/, classes sorted by name.

    Pictures lie at any depth below their class. Grey, CMYK and palette pictures become what `channels` says,
    transparent ones are laid on white, and those a camera stored turned are shown upright.

    A missing validation split is an error: a loss on training pictures would not say what it claims to. So are a class
    without training pictures and a class that only the validation split has; one without validation pictures is a
    warning. crop: how a picture becomes square, a name of CROPS; validation never draws. on_error: "raise" names the
    first file that cannot be read, "skip" leaves such files out and says how many and which.
    """

    def __init__(self, root: str, channels: int, crop: str = "center", on_error: str = "raise", **pictures: Any):
        super().__init__(channels=channels, **pictures)
        if channels not in (1, 3):
            raise ValueError(f"data.channels of a folder must be 1 (grey) or 3 (colour), got {channels}")
        for key, value, known in (("crop", crop, CROPS), ("on_error", on_error, ("raise", "skip"))):
            if not isinstance(value, str) or value not in known:
                raise ValueError(f"data.{key} must be one of {', '.join(known)}, got {shown(value)}")
        if crop == "random_resized" and self.storage != "disk":
            raise ValueError(f"data.crop=random_resized needs data.storage=disk; {self.storage} keeps one crop of each")
        self.root, self.crop, self.on_error = given_path("data.root", root), crop, on_error

    @property
    def all_class_names(self) -> list[str]:
        return folder_classes(self.root)

    def prepare_data(self) -> None:
        # Lightning calls this once a node, before training.
        splits = self._splits()
        self._refuse(*splits)
        if self.on_error == "raise":
            for split in splits:
                split.check()

    def load(self) -> tuple[FolderSplit, FolderSplit]:
        train, validation = self._splits()
        self._refuse(train, validation)
        if self.on_error == "skip":
            for split in (train, validation):
                split.drop_unreadable()
            self._refuse(train, validation)
        for sentence in self._warned(train, validation):
            rank_zero_warn(sentence)
        return train, validation

    def survey(self) -> Survey:
        train, validation = self._splits()
        refused = list(self._refused(train, validation))
        try:
            self._check_count()
        except ValueError as error:
            refused.append(str(error))
        return Survey(
            *self._chosen(train, validation),
            refused=refused,
            warned=list(self._warned(train, validation)),
            ignored=train.ignored + validation.ignored,
            skips=self.on_error == "skip",
        )

    def _splits(self) -> tuple[FolderSplit, FolderSplit]:
        names = self.all_class_names
        there = [name for name in _VALIDATION_NAMES if (self.root / name).is_dir()]
        train, validation = (
            FolderSplit(self.root / split, names, self.image_size, self.channels, CROPS[self.crop])
            for split in ("train", (there or _VALIDATION_NAMES)[0])
        )
        return train, validation

    def _refuse(self, train: FolderSplit, validation: FolderSplit) -> None:
        for sentence in self._refused(train, validation):
            raise ValueError(sentence)

    def _refused(self, train: FolderSplit, validation: FolderSplit) -> Iterator[str]:
        yield from train.unlisted + validation.unlisted
        here, held_out = f"data.root={printable(str(self.root))}", f"{validation.root.name}/"
        if empty := self._without(train):
            inside = [f for f in train.ignored if f.relative_to(train.root).parts[0] in empty]
            others = f" (files of other endings: {counted(unread(inside))}; {_ENDINGS})" if unread(inside) else ""
            yield f"{here} has no pictures in {_named(empty, 'train/')}{others}; remove what is no class, or fill it"
        if not validation.root.is_dir():
            yield f"{here} has no validation split; name it {', '.join(_VALIDATION_NAMES)}"
        elif strange := sorted(set(_subfolders(validation.root)) - set(self.all_class_names)):
            yield f"{here} has {_named(strange, held_out)}, but no such classes in train/; both must have the same ones"
        elif not len(validation):
            yield f"{here} has no pictures of these classes in {held_out}"

    def _warned(self, train: FolderSplit, validation: FolderSplit) -> Iterator[str]:
        if len(validation) and (empty := self._without(validation)):
            named = _named(empty, f"{validation.root.name}/")
            here = f"data.root={printable(str(self.root))}"
            yield f"{here} has no pictures in {named}: validation tells nothing of these classes"
        for split in (train, validation):
            root = printable(str(split.root))
            if left_out := unread(split.ignored):
                yield f"{root} has files that are not read: {counted(left_out)}; {_ENDINGS}"
            there = split.root.iterdir() if split.root.is_dir() else ()
            if loose := sum(is_picture(f.name) and not is_hidden(f.name) and f.is_file() for f in there):
                yield f"{root} has pictures outside of its class folders, which are not used: {loose}"

    def _without(self, split: FolderSplit) -> list[str]:
        """The classes asked for of which it has no picture."""
        names = self.all_class_names
        there = {names[label] for label in split.labels.unique().tolist()}
        return [name for name in self.class_names if name not in there]


def folder_classes(root: str | Path) -> list[str]:
    """Sorted class names of root/train. ValueError for a missing folder or fewer than two classes."""
    train, here = given_path("data.root", root) / "train", f"data.root={printable(str(root))}"
    if not train.is_dir():
        raise ValueError(f"{here} must be a folder with train/<class>/ inside; {printable(str(train))} does not exist")
    names = _subfolders(train)
    if len(names) < 2:
        raise ValueError(
            f"{here} must have at least two class folders in train/, found {len(names)}"
            + (f" ({printable(names[0])})" if names else "")
        )
    return names


def _subfolders(folder: Path) -> list[str]:
    try:
        return sorted(f.name for f in folder.iterdir() if f.is_dir() and not is_hidden(f.name))
    except OSError as error:
        raise ValueError(f"cannot list the folder {printable(str(folder))}: {error.strerror or error}") from error


def _named(names: Sequence[str], before: str) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"{before}{printable(name)}" for name in names[:5]) + more
