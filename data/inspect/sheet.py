"""A picture of the pictures: classes below each other, as they are on the left, as training draws them on the right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from data.order import EndlessOrder, Pick
from data.pictures import Pictures
from data.split import Split
from dit.checks import printable

_TILE = 64  # pixels; smaller pictures are enlarged by a whole factor, to this at least
_LARGE = 128  # larger ones are reduced to it
_MOST_TILES = 10_000  # of at most 128 x 128 pixels: half a gigabyte
_GAP, _MARGIN, _BLOCK = 3, 24, 28
_INK, _PALE, _PAPER = (24, 24, 27), (113, 113, 122), (240, 240, 242)  # paper that white pictures stand out from


def contact_sheet(data: Pictures, train: Split, classes_shown: int, samples: int) -> Image.Image | None:
    """`samples` pictures of each of `classes_shown` classes, spread over all, in the order in which the first epoch
    meets them; on the right the same ones mirrored, cropped and augmented as in that epoch.

    Pictures that cannot be read are passed over; None if that leaves none.
    """
    names = data.class_names
    labels = torch.linspace(0, len(names) - 1, min(classes_shown, len(names))).round().int().tolist()
    rows = _picked(data, train, labels, samples)
    if not rows:
        return None
    columns = max(map(len, rows.values()))
    if (tiles := 2 * columns * len(rows)) > _MOST_TILES:
        raise ValueError(
            f"classes_shown and samples ask for {tiles:,} tiles of the sheet, and at most {_MOST_TILES:,} fit"
        )
    still = [_shown(data, train, [Pick(pick.index) for pick in picks]) for picks in rows.values()]
    drawn = [_shown(data, train, picks) for picks in rows.values()]
    some = f"{len(rows)} of " if len(rows) < len(names) else ""
    title = (
        f"{type(data).__name__}: {len(train):,} training pictures, {some}{len(names):,} classes, "
        f"{data.image_size} x {data.image_size}"
    )
    return _laid_out(title, [names[label] for label in rows], still, drawn, columns)


def _picked(data: Pictures, train: Split, labels: Sequence[int], samples: int) -> dict[int, list[Pick]]:
    """The first readable picks of the first epoch of these classes, in the order of the labels."""
    rows: dict[int, list[Pick]] = {label: [] for label in labels}
    open_rows = set(labels)
    order = EndlessOrder(len(train), 256, seed=data.seed, rank=0, world_size=1, mirror=data.mirror)
    for pick in islice(chain.from_iterable(order), len(train)):
        label = int(train.labels[pick.index])
        if label in open_rows and _readable(train, pick.index):
            rows[label].append(pick)
            if len(rows[label]) == samples:
                open_rows.remove(label)
        if not open_rows:
            break
    return {label: picks for label, picks in rows.items() if picks}


def _readable(train: Split, index: int) -> bool:
    try:
        train.read(index)
    except ValueError:
        return False
    return True


def _shown(data: Pictures, train: Split, picks: Sequence[Pick]) -> list[Image.Image]:
    """What reaches the network, turned back into pixels."""
    batch = data.on_after_batch_transfer(train.__getitems__(picks), 0)
    return [_tile(pixels) for pixels in data.codec.decode(batch.images)]


def _tile(pixels: Tensor) -> Image.Image:
    picture = to_pil_image(pixels).convert("RGB")
    size = picture.width
    if size > _LARGE:
        return picture.resize((_LARGE, _LARGE), Image.Resampling.LANCZOS)
    side = size * -(-_TILE // size)
    return picture.resize((side, side), Image.Resampling.NEAREST)


def _laid_out(
    title: str, names: list[str], still: list[list[Image.Image]], drawn: list[list[Image.Image]], samples: int
) -> Image.Image:
    head, plain = ImageFont.load_default(18), ImageFont.load_default(14)
    side = max(tile.width for row in still for tile in row) + _GAP
    printed = [printable(name) for name in names]
    shorter = [name if len(name) <= 24 else f"{name[:23]}…" for name in printed]
    left = _MARGIN + int(max(plain.getlength(name) for name in shorter)) + 12
    right = left + samples * side + _BLOCK
    top = _MARGIN + 60
    sheet = Image.new("RGB", (right + samples * side - _GAP + _MARGIN, top + len(names) * side + _MARGIN), _PAPER)
    ink = ImageDraw.Draw(sheet)
    ink.text((_MARGIN, _MARGIN - 6), title, _INK, head)
    ink.text((left, top - 24), "as they are", _PALE, plain)
    ink.text((right, top - 24), "the same, as training draws them", _PALE, plain)
    for number, name in enumerate(shorter):
        y = top + number * side
        ink.text((left - 12, y + (side - _GAP) // 2), name, _INK, plain, anchor="rm")
        for start, tiles in ((left, still[number]), (right, drawn[number])):
            for column, tile in enumerate(tiles):
                sheet.paste(tile, (start + column * side, y))
    return sheet
