"""Lines in one panel or several: colours are the first key, columns of panels the second, rows of panels the third."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dit.report.points import ResultTable
from dit.report.style import FEW, Names, looks, plain_decades, spans_decades

_MANY = 24  # lines of one legend


@dataclass(frozen=True)
class Line:
    """x, mean and the lowest and highest of the seeds. ended: where it broke off, x and y and why."""

    choice: dict[str, str]
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    ended: tuple[float, float, str] | None = None


def in_panels(
    lines: Sequence[Line],
    measured: ResultTable,
    across: str,
    up: str,
    dots: bool = True,
    joined: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A key beyond the third, and all keys where the panels were too many, join the colours; more lines than a legend
    can hold have none. across, up: what the axes are. joined: whether neighbours on x have anything between them.
    """
    names, keys = Names.of(measured), list(lines[0].choice)
    colour, columns, rows = [*keys[:1], *keys[3:]], keys[1:2], keys[2:3]
    wide, high = ([value for key in place for value in measured.keys[key]] or [""] for place in (columns, rows))
    if len(wide) * len(high) > FEW:
        colour, columns, rows, wide, high = keys, [], [], [""], [""]
    size = (min(10.5, 2.3 * len(wide) + 0.7), 1.9 * len(high) + 1.0) if len(wide) > 1 else (4.6, 2.4 * len(high) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(high), len(wide), squeeze=False, sharex=True, sharey=True)

    entries = sorted(
        {tuple(line.choice[key] for key in colour) for line in lines},
        key=lambda entry: [measured.keys[key].index(value) for key, value in zip(colour, entry, strict=True)],
    )
    bare: dict[str, Any] = ({} if dots else {"marker": ""}) | ({} if joined else {"linestyle": ""})
    styles = {entry: look | bare for entry, look in zip(entries, looks(entries), strict=True)}
    middle = sum(extreme(x for line in lines for x in line.x) for extreme in (min, max)) / 2
    for line in lines:
        y = high.index(line.choice[rows[0]]) if rows else 0
        x = wide.index(line.choice[columns[0]]) if columns else 0
        _draw(grid[y][x], line, styles[tuple(line.choice[key] for key in colour)], joined, middle)

    places = [(dict.fromkeys(rows, row) | dict.fromkeys(columns, column)) for row in high for column in wide]
    titles = [names.equal(here, (*columns, *rows)) for here in places]
    for panel, said in zip(grid.flat, titles, strict=True):
        panel.set_title(said if max(map(len, titles)) < 34 else said.replace(", ", "\n"))
        panel.grid(True)
    for panel in grid[-1]:
        panel.set_xlabel(across)
    if len(high) == 1:
        grid[0][0].set_ylabel(up)
    else:
        figure.supylabel(up, fontsize="medium")
    _spread(list(grid.flat), lines)
    if colour and len(entries) <= _MANY:
        labels = [names.value(dict(zip(colour, entry, strict=True)), colour) for entry in entries]
        room = max(1, int(size[0] * 11 / (max(map(len, labels)) + 7)))
        figure.set_figheight(size[1] + 0.17 * (-(-len(labels) // room) - 1))
        figure.legend(
            [Line2D([], [], **styles[entry]) for entry in entries],
            labels,
            loc="outside lower center",
            ncols=min(room, len(labels)),
            title=", ".join(names.keys[key] for key in colour),
        )
    return figure, list(grid.flat)


def _draw(panel: Axes, line: Line, look: dict[str, Any], joined: bool, middle: float) -> None:
    """middle: of the axis; where a line ended is said towards it."""
    panel.add_line(Line2D(line.x, line.mean, markeredgecolor="white", markeredgewidth=0.5, **look))
    if any(low < high for low, high in zip(line.low, line.high, strict=True)):
        if joined and len(line.x) > 1:
            panel.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.2, linewidth=0)
        else:
            panel.vlines(line.x, line.low, line.high, color=look["color"], linewidth=1)
    if line.ended:
        x, y, why = line.ended
        panel.plot(x, y, "x", color=look["color"], markersize=7, markeredgewidth=1.8)
        aside, side = (-6, "right") if x > middle else (6, "left")
        note = panel.annotate(why, (x, y), (aside, 5), textcoords="offset points", ha=side, fontsize=7, color="0.25")
        note.set_in_layout(False)
    panel.autoscale_view()


def _spread(panels: Sequence[Axes], lines: Sequence[Line]) -> None:
    """Values that span decades on a logarithmic axis."""
    if spans_decades([value for line in lines for value in line.low]):
        panels[0].set_yscale("log")
        plain_decades(panels[0].yaxis)
    else:
        panels[0].yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
