"""Samples of the trials side by side, made from the same noise: rows are the first key, columns the second."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dit.checks import printable
from dit.report.files import read_picture
from dit.report.points import ResultTable
from dit.report.read import Trial
from dit.report.style import Names, cut

_WIDTH, _HEIGHT, _CELL = 10.0, 11.0, 2.4  # inches: of a page, and at most of one picture
_PIXELS = 400  # an inch of a picture, of which print shows half
_PANELS, _FIGURES = 400, 24


def sheets(measured: ResultTable, seed: str) -> list[tuple[str, Figure]]:
    """A figure for each choice of the third key and those after it, with that choice in words.

    Noise is a function of the seed, so only the trials with `seed` are shown. A picture that cannot be read is left
    out, with a remark on its trial. Raises ValueError for more than can be looked at.
    """
    names, missing = Names.of(measured), [""] * (2 - len(measured.keys))  # one key: one row
    keys = [*missing, *measured.keys]
    places = [[""]] * len(missing) + list(measured.keys.values())
    found: dict[tuple[str, ...], Trial] = {}
    for row in measured.rows:
        if row.trial.picture is not None and row.trial.seed == seed:
            found.setdefault((*missing, *row.choice.values()), row.trial)
    panels, facets = math.prod(map(len, places[:2])), math.prod(map(len, places[2:]))
    if found and (panels > _PANELS or facets > _FIGURES):
        raise ValueError(f"{facets:,} figures of {panels:,} pictures are more than can be looked at")
    drawn = []
    for facet in itertools.product(*places[2:]):
        trials = {(choice[0], choice[1]): trial for choice, trial in found.items() if choice[2:] == facet}
        side = int(_PIXELS * min(_CELL, _WIDTH / len(places[1])))
        pictures = {at: picture for at, trial in trials.items() if (picture := _read(trial, side)) is not None}
        if pictures:
            steps = {at: _step(trials[at]) for at in pictures}
            said = names.equal(dict(zip(keys[2:], facet, strict=True)), keys[2:])
            drawn.append((said, _sheet(pictures, steps, places[0], places[1], keys, names)))
    return drawn


def _sheet(
    pictures: dict[tuple[str, str], np.ndarray],
    steps: dict[tuple[str, str], str],
    rows: Sequence[str],
    columns: Sequence[str],
    keys: Sequence[str],
    names: Names,
) -> Figure:
    down, across = keys[:2]
    shape = max(picture.shape[0] / picture.shape[1] for picture in pictures.values())
    width = min(_CELL, _WIDTH / len(columns), _HEIGHT / len(rows) / shape)
    label = 0.075 * max(map(len, names.values[down].values())) if down else 0.0
    figure = Figure(figsize=(len(columns) * (width + 0.08) + label + 0.6, len(rows) * (width * shape + 0.08) + 0.6))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    apart = len(set(steps.values())) > 1
    for (y, row), (x, column) in itertools.product(enumerate(rows), enumerate(columns)):
        panel, at = grid[y][x], (row, column)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
        if at in pictures:
            panel.imshow(pictures[at], cmap="gray", vmin=0, vmax=255)
            if apart:
                panel.set_xlabel(f"step {steps[at]}", fontsize=7, labelpad=2)
        else:
            panel.text(0.5, 0.5, "no picture", ha="center", va="center", color="0.4", fontsize=7.5)
        if y == 0 and across:
            panel.set_title(names.values[across][column])
        if x == 0 and down:
            panel.set_ylabel(names.values[down][row], fontsize=8.5, rotation=0, ha="right", va="center")
    if across:
        figure.suptitle(cut(across), fontsize=8.5)
    if down:
        figure.supylabel(cut(down), fontsize=8.5)
    return figure


def _step(trial: Trial) -> str:
    return "" if trial.picture is None else re.sub(r"\D", "", trial.picture.stem).lstrip("0")


def _read(trial: Trial, side: int) -> np.ndarray | None:
    """The picture of a trial, laid on its side, shrunk to less than twice `side` pixels; None if it cannot be read."""
    assert trial.picture is not None
    try:
        picture = _laid(read_picture(trial.picture))
    except ValueError as error:
        remark = printable(f"{trial.picture.name} is left out: {error}")
        if remark not in trial.remarks:
            trial.remarks.append(remark)
        return None
    factor = max(picture.shape[:2]) // side
    return picture if factor < 2 else np.asarray(Image.fromarray(picture).reduce(factor))


def _laid(sheet: np.ndarray) -> np.ndarray:
    """A contact sheet [H, W, 3] of more rows than columns on its side, each of its pictures upright: classes, which are
    rows, become columns, and more sheets fit on a page. Other pictures as they are."""
    rows, columns = (_tiles((sheet == 255).all(axis=(axis, 2))) for axis in (1, 0))
    if len(rows) <= len(columns) or len({b - a for a, b in rows + columns}) != 1:
        return sheet
    (first, end), gap = rows[0], rows[1][0] - rows[0][1]
    laid = np.full((sheet.shape[1], sheet.shape[0], 3), 255, dtype=np.uint8)
    for (i, (y, y_end)), (j, (x, x_end)) in itertools.product(enumerate(rows), enumerate(columns)):
        down, across = (first + k * (end - first + gap) for k in (j, i))
        laid[down : down + end - first, across : across + end - first] = sheet[y:y_end, x:x_end]
    return laid


def _tiles(white: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of what lies between white lines."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], white, [True]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
