"""Any tree of root/split/class/picture, ImageNet's layout included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from data.crop import CROPS, Crop
from data.files import ENDINGS, counted, in_threads, is_picture, list_pictures, look, read_picture, unread
from data.hidden import is_hidden
from data.layout import VALIDATION_NAMES, Layout, held_out, subfolders
from data.order import Pick
from data.pictures import Pictures
from data.split import Split
from data.survey import Survey
from dit.checks import printable, shown
from dit.files import given_path

_ENDINGS = f"pictures end in {', '.join(ENDINGS)}"


class FolderSplit(Split):
    """The pictures of one split, decoded on demand and made square by `crop`. folders: of each class, below `root`.

    ignored: files beside them; unlisted: sentences on folders that could not be listed.
    """

    def __init__(self, root: Path, folders: dict[str, Path], image_size: int, channels: int, crop: Crop):
        self.root, self._image_size, self._mode, self._crop = root, image_size, {1: "L", 3: "RGB"}[channels], crop
        self._files: list[Path] = []
        self.ignored: list[Path] = []
        self.unlisted: list[str] = []
        labels: list[int] = []
        for label, folder in enumerate(folders.values()):
            if folder.is_dir():
                listing = list_pictures(folder)
                self._files += listing.pictures
                self.ignored += listing.ignored
                self.unlisted += listing.unlisted
                labels += [label] * len(listing.pictures)
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def divided(self) -> tuple[FolderSplit, FolderSplit]:
        """What is trained on, and what is held out."""
        held = held_out(self._files, self.labels.tolist(), self.root)
        rest, out = copy(self), copy(self)
        rest._keep([number for number in range(len(self._files)) if number not in held])
        out._keep(sorted(held))
        out.ignored, out.unlisted = [], []
        return rest, out

    def _keep(self, numbers: list[int]) -> None:
        self._files, self.labels = [self._files[number] for number in numbers], self.labels[numbers]

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
            self._keep([number for number, reason in enumerate(faults) if reason is None])

    def _faults(self) -> Iterator[str | None]:
        """What is wrong with each file, in order."""
        return (seen.fault for seen in in_threads(look, self._files))


class Folder(Pictures):
    """Pictures in root/train/<class>/ and root/val|validation|test/<class>/, classes sorted by name; without train/ in
    root/<class>/; without class folders they are all of one class (model.num_classes=0: of none).

    Pictures lie at any depth below their class. Grey, CMYK and palette pictures become what `channels` says,
    transparent ones are laid on white, and those a camera stored turned are shown upright.

    Where there is no validation split a tenth of each class is held out, with a warning: a loss on training pictures
    would not say what it claims to. A class without training pictures is an error, and one that only the validation
    split has; one without validation pictures is a warning. crop: how a picture becomes square, a name of CROPS;
    validation never draws. on_error: "raise" names the first file that cannot be read, "skip" leaves such files out and
    says how many and which.
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
        at, crop = Layout.of(self.root), CROPS[self.crop]
        train, *more = (
            FolderSplit(root, at.folders(root), self.image_size, self.channels, crop)
            for root in (at.train, at.validation)
            if root is not None
        )
        return (train, more[0]) if more else train.divided()

    def _refuse(self, train: FolderSplit, validation: FolderSplit) -> None:
        for sentence in self._refused(train, validation):
            raise ValueError(sentence)

    def _refused(self, train: FolderSplit, validation: FolderSplit) -> Iterator[str]:
        yield from train.unlisted + validation.unlisted
        here, inside = f"data.root={printable(str(self.root))}", f"{validation.root.name}/"
        if empty := self._without(train):
            left = unread([f for f in train.ignored if f.relative_to(train.root).parts[0] in empty])
            others = f" (files of other endings: {counted(left)}; {_ENDINGS})" if left else ""
            yield f"{here} has no pictures in {_named(empty, 'train/')}{others}; remove what is no class, or fill it"
        flat, apart = Layout.of(self.root).flat, validation.root != train.root
        if apart and not flat and (strange := sorted(set(subfolders(validation.root)) - set(self.all_class_names))):
            yield f"{here} has {_named(strange, inside)}, but no such classes in train/; both must have the same ones"
        elif not len(validation):
            yield f"{here} has no pictures of these classes in {inside}" if apart else f"{here} has too few pictures"

    def _warned(self, train: FolderSplit, validation: FolderSplit) -> Iterator[str]:
        here = f"data.root={printable(str(self.root))}"
        if validation.root == train.root:
            yield (
                f"{here} has no validation split ({', '.join(VALIDATION_NAMES)}): {len(validation):,} of "
                f"{len(train) + len(validation):,} pictures are held out for it, a tenth of each class"
            )
        if len(validation) and (empty := self._without(validation)):
            named = _named(empty, f"{validation.root.name}/")
            yield f"{here} has no pictures in {named}: validation tells nothing of these classes"
        for split in (train, validation):
            root = printable(str(split.root))
            if left_out := unread(split.ignored):
                yield f"{root} has files that are not read: {counted(left_out)}; {_ENDINGS}"
            there = () if Layout.of(self.root).flat else split.root.iterdir()
            if loose := sum(is_picture(f.name) and not is_hidden(f.name) and f.is_file() for f in there):
                yield f"{root} has pictures outside of its class folders, which are not used: {loose}"

    def _without(self, split: FolderSplit) -> list[str]:
        """The classes asked for of which it has no picture."""
        names = self.all_class_names
        there = {names[label] for label in split.labels.unique().tolist()}
        return [name for name in self.class_names if name not in there]


def folder_classes(root: str | Path) -> list[str]:
    """Sorted class names. ValueError for a folder without pictures or classes."""
    return Layout.of(root).names


def _named(names: Sequence[str], before: str) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"{before}{printable(name)}" for name in names[:5]) + more
