"""Samples of the trials side by side, made from the same noise: rows are the first key, columns the second."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dit.evaluation.report.points import Measured
from dit.evaluation.report.style import Names

_WIDTH, _HEIGHT, _CELL = 10.0, 11.0, 2.4  # inches: of a page, and at most of one picture


def sheets(measured: Measured, seed: str) -> list[tuple[str, Figure]]:
    """A figure for each choice of the third key and those after it, with that choice in words.

    Noise is a function of the seed, so only the trials with `seed` are shown.
    """
    names, missing = Names.of(measured), [""] * (2 - len(measured.keys))  # one key: one row
    keys = [*missing, *measured.keys]
    places = [[""]] * len(missing) + list(measured.keys.values())
    found: dict[tuple[str, ...], Path] = {}
    for row in measured.rows:
        if row.trial.picture is not None and row.trial.seed == seed:
            found.setdefault((*missing, *row.choice.values()), row.trial.picture)
    drawn = []
    for facet in itertools.product(*places[2:]):
        files = {(choice[0], choice[1]): file for choice, file in found.items() if choice[2:] == facet}
        pictures = {at: picture for at, file in files.items() if (picture := _read(file)) is not None}
        if pictures:
            steps = {at: re.sub(r"\D", "", files[at].stem).lstrip("0") for at in pictures}
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
        figure.suptitle(across, fontsize=8.5)
    if down:
        figure.supylabel(down, fontsize=8.5)
    return figure


def _read(file: Path) -> np.ndarray | None:
    """None for a file that was torn."""
    try:
        with Image.open(file) as image:
            return _laid(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError):
        return None


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
