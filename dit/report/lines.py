"""A metric in lines: against optimiser steps, against the guidance scale, against a key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dit.report.panels import Line, in_panels
from dit.report.points import Point, ResultTable, short_values
from dit.report.read import number
from dit.report.style import cut, plain_decades, spans_decades, wanted


def curves(measured: ResultTable, metric: str) -> Figure | None:
    """The metric against optimiser steps, a line a choice; None where no trial has logged it."""
    lines = [line for point in measured.points if (line := _curve(point, metric)) is not None]
    if not lines:
        return None
    few = all(len(line.x) < 12 for line in lines)
    return in_panels(lines, measured, "optimiser steps", wanted(metric), dots=few)[0]


def _curve(point: Point, metric: str) -> Line | None:
    """Of the trials that finished, if any did, at the steps that all of them have; to where the first of them broke."""
    logged = [row.trial.curves[metric] for row in (point.counted or point.rows) if metric in row.trial.curves]
    finite = [{step: value for step, value in curve.items() if math.isfinite(value)} for curve in logged]
    finite = [curve for curve in finite if curve]
    if not finite:
        return None
    steps = sorted(set.intersection(*map(set, finite))) or sorted(set.union(*map(set, finite)))
    diverged = any(not math.isfinite(value) for curve in logged for value in curve.values())
    why = "diverged" if diverged else point.state
    return _line(point.choice, [(step, [curve[step] for curve in finite if step in curve]) for step in steps], why)


def against_scale(measured: ResultTable, real: ResultTable, metric: str) -> Figure | None:
    """A score against the guidance scale, a line a choice of everything else; real pictures for comparison.

    None where there are fewer than two scales.
    """
    keys = [key for key in measured.keys if not _is_scale(measured, key)]
    groups: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for row in measured.rows:
        if row.trial.counts and row.scale is not None and metric in row.metrics and math.isfinite(row.metrics[metric]):
            found = groups.setdefault(tuple(row.choice[key] for key in keys), {})
            found.setdefault(row.scale, []).append(row.metrics[metric])
    scales = {scale for found in groups.values() for scale in found}
    if len(scales) < 2:
        return None
    lines = [_line(dict(zip(keys, choice, strict=True)), sorted(found.items())) for choice, found in groups.items()]
    figure, panels = in_panels(lines, measured, "guidance scale", wanted(metric))
    level = next((stat.mean for point in real.points if (stat := point.stat(metric)) and stat.count), None)
    if level is not None:
        for panel in panels:
            panel.axhline(level, color="0.45", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
        panels[0].annotate("real pictures", (1, level), (-2, 3), fontsize=7.5, color="0.35", **at)
    if spans_decades(list(scales)):
        panels[0].set_xscale("log")
        shown = sorted(scales)[:: -(-len(scales) // 8)]
        panels[0].set_xticks(shown, [f"{scale:g}" for scale in shown])
        panels[0].xaxis.set_minor_locator(NullLocator())
    return figure


def _is_scale(measured: ResultTable, key: str) -> bool:
    """Whether a key is the guidance scale under its own name."""
    return all(row.scale is not None and number(row.choice[key]) == row.scale for row in measured.rows)


def against_key(measured: ResultTable, metric: str) -> Figure | None:
    """The metric against the key with the most values, the others as colours and panels; None without any value."""
    across, *others = sorted(measured.keys, key=lambda key: -len(measured.keys[key]))
    values = measured.keys[across]
    numeric = all(number(value) is not None for value in values)
    groups: dict[tuple[str, ...], list[tuple[float, list[float]]]] = {}
    for point in measured.points:
        found = [row.metrics[metric] for row in point.counted if metric in row.metrics]
        finite = [value for value in found if math.isfinite(value)]
        if finite:
            x = float(point.choice[across]) if numeric else values.index(point.choice[across])
            groups.setdefault(tuple(point.choice[key] for key in others), []).append((x, finite))
    if not groups:
        return None
    lines = [_line(dict(zip(others, choice, strict=True)), sorted(found)) for choice, found in groups.items()]
    # A search leaves gaps in a grid of keys, and nothing is known of what lies in them.
    figure, panels = in_panels(lines, measured, cut(across), wanted(metric), joined=numeric and not others)
    if numeric:
        if spans_decades(xs := [x for line in lines for x in line.x]):
            panels[0].set_xscale("log")
            plain_decades(panels[0].xaxis, (1, 2, 5) if max(xs) < 10**3 * min(xs) else (1,))
        return figure
    labels = [cut(label) for label in short_values(values).values()]
    turned = {"rotation": 30, "ha": "right"} if len(panels) * sum(map(len, labels)) > 40 else {}
    for panel in panels:
        panel.set_xticks(range(len(labels)), labels, **turned)
        panel.set_xlim(-0.5, len(labels) - 0.5)
    return figure


def _line(choice: dict[str, str], found: Sequence[tuple[float, list[float]]], why: str = "") -> Line:
    """found: x with the values of the seeds. why: what it broke off with."""
    mean, low, high = ([of(values) for _, values in found] for of in (fmean, min, max))
    x = [x for x, _ in found]
    return Line(choice, x, mean, low, high, (x[-1], mean[-1], why) if why else None)
