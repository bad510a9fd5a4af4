"""A metric by two keys: a heat map, one for each choice of the other keys."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dit.report.points import Point, ResultTable, higher, text, title
from dit.report.style import FEW, Names, cut, plain_decades, spans_decades


def is_filled(measured: ResultTable) -> bool:
    """Whether the choices are a grid of two or more keys, rather than those that a search has drawn."""
    size = math.prod(len(values) for values in measured.keys.values())
    return len(measured.keys) > 1 and 2 * len(measured.points) > size


def heat_map(measured: ResultTable, metric: str) -> Figure | None:
    """Mean over seeds, ± their standard deviation, by the first two keys; at most 12 maps.

    None where there is nothing to show, or the same everywhere. Bright is good, a frame marks the best.
    """
    (down, across), others = list(measured.keys)[:2], list(measured.keys)[2:]
    names, points = Names.of(measured), measured.points
    stats = [stat for point in points if (stat := point.stat(metric)) and stat.count]
    means = [stat.mean for stat in stats]
    if not stats or (len(set(means)) == 1 < len(means) and not any(stat.diverged for stat in stats)):
        return None
    rows, columns = measured.keys[down], measured.keys[across]
    chosen = {_picked(point, others) for point in points}
    facets = [f for f in itertools.product(*(measured.keys[key] for key in others)) if f in chosen][:FEW]
    labels = [names.values[across][value] for value in columns]
    figure, panels, turned = _canvas(
        len(facets), rows, labels, names.values[down], spread=any(s.count > 1 for s in stats)
    )
    norm = LogNorm(min(means), max(means)) if spans_decades(means) else Normalize(min(means), max(means))
    image = None
    flat: list[Axes] = list(panels.flat)
    for index in range(len(facets), len(flat)):
        flat[index].set_visible(False)
        flat[index - panels.shape[1]].tick_params(labelbottom=True)
    for panel, facet in zip(flat, facets, strict=False):
        cells = {(p.choice[down], p.choice[across]): p for p in points if _picked(p, others) == facet}
        values = np.full((len(rows), len(columns)), np.nan)
        for (y, row), (x, column) in itertools.product(enumerate(rows), enumerate(columns)):
            if (point := cells.get((row, column))) and (stat := point.stat(metric)) and stat.count:
                values[y, x] = stat.mean
        image = panel.imshow(values, cmap="viridis" if higher(metric) else "viridis_r", norm=norm, aspect="auto")
        for (y, row), (x, column) in itertools.product(enumerate(rows), enumerate(columns)):
            shade = None if np.isnan(values[y, x]) else image.cmap(norm(values[y, x]))
            _fill(panel, x, y, cells.get((row, column)), metric, shade, values[y, x] == measured.best(metric))
        panel.set_xticks(range(len(columns)), labels, rotation=30 if turned else 0, ha="right" if turned else "center")
        panel.set_yticks(range(len(rows)), [names.values[down][value] for value in rows])
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        panel.set_title(names.equal(dict(zip(others, facet, strict=True)), others))
    assert image is not None
    if len(facets) == 1:
        panels[0][0].set_xlabel(cut(across))
        panels[0][0].set_ylabel(cut(down))
    else:
        figure.supxlabel(cut(across), fontsize="medium")
        figure.supylabel(cut(down), fontsize="medium")
    bar = figure.colorbar(image, ax=panels, fraction=0.05, pad=0.02, label=cut(title(metric)))
    if isinstance(norm, LogNorm):
        plain_decades(bar.ax.yaxis)
    bar.outline.set_visible(False)  # type: ignore[union-attr]
    return figure


def _canvas(
    maps: int, rows: Sequence[str], labels: Sequence[str], down: dict[str, str], spread: bool
) -> tuple[Figure, np.ndarray, bool]:
    """With cells that hold their numbers, and whether the labels below must be turned to fit."""
    wide = min(maps, max(1, 10 // len(labels)))
    high = -(-maps // wide)
    cell, longest = (0.86 if spread else 0.72), max(map(len, labels))
    turned = longest * 0.075 > cell
    below = 0.045 * longest if turned else 0.0
    width = wide * (len(labels) * cell + 0.15) + 0.07 * max(len(down[value]) for value in rows) + 1.2
    height = high * (len(rows) * (0.5 if spread else 0.42) + 0.3) + 0.5 + below
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True), turned


def _fill(
    panel: Axes, x: int, y: int, point: Point | None, metric: str, shade: Sequence[float] | None, best: bool
) -> None:
    stat = point.stat(metric) if point else None
    if shade is None or stat is None:
        said = "diverged" if stat else (point.state if point else "") or "n/a"
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="0.95", edgecolor="0.82", hatch="////", lw=0))
        panel.text(x, y, said.replace(", ", "\n"), ha="center", va="center", color="0.25", fontsize=7)
        return
    ink = "black" if 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 0.5 else "white"
    lines = [text(stat.mean)] + [f"± {text(stat.std, stat.mean)}"] * (stat.count > 1)
    lines += [f"{stat.diverged} diverged"] * (stat.diverged > 0)
    weight = "bold" if best else "normal"
    panel.text(x, y, "\n".join(lines), ha="center", va="center", color=ink, fontsize=7.5, weight=weight)
    if best:
        panel.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, fill=False, edgecolor=ink, lw=1.6))


def _picked(point: Point, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(point.choice[key] for key in keys)
