"""How the figures of a report look: letters, colours, markers, names."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

from dit.report.points import ResultTable, higher, short_keys, short_values, title
from dit.report.read import number

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every table of every letter in a PDF

STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # letters that a printer and a search can read
    "text.parse_math": False,  # a $ in a name is a $
}
# Okabe and Ito 2008: told apart with every kind of colour vision; without their yellow, which white paper swallows.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv<>P"
FEW = 12  # panels, or heat maps, of one figure
_LONGEST = 60  # characters of a key or value


@dataclass(frozen=True)
class Names:
    """Keys and values as they are written in figures."""

    keys: dict[str, str]
    values: dict[str, dict[str, str]]

    @classmethod
    def of(cls, measured: ResultTable) -> Names:
        keys, values = short_keys(list(measured.keys)), measured.keys.items()
        return cls(_cut(keys), {key: _cut(short_values(of)) for key, of in values})

    def value(self, choice: dict[str, str], keys: Iterable[str]) -> str:
        return ", ".join(self.values[key][choice[key]] for key in keys)

    def equal(self, choice: dict[str, str], keys: Iterable[str]) -> str:
        return ", ".join(f"{self.keys[key]} = {self.values[key][choice[key]]}" for key in keys)


def cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 3]}..."


def _cut(names: dict[str, str]) -> dict[str, str]:
    return {key: cut(name) for key, name in names.items()}


def spans_decades(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) >= 10 * min(values)


def plain_decades(axis: Axis, subs: Sequence[int] = (1, 2, 5)) -> None:
    """Marks a logarithmic axis at 1, 2, 5, 10, 20, ..."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def wanted(metric: str) -> str:
    up = higher(metric)
    return cut(title(metric)) + ("" if up is None else ", higher is better" if up else ", lower is better")


def looks(entries: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Numbers, and more than there are colours, from dark to light; names each in its own colour."""
    markers = itertools.cycle(_MARKERS)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.86, max(2, len(entries))))
    numbers = all(number(value) is not None for entry in entries for value in entry) and len(entries) > 1
    ordinal = numbers or len(entries) > len(_COLOURS)
    return [
        {"color": shades[i] if ordinal else _COLOURS[i], "marker": marker}
        for i, (_, marker) in enumerate(zip(entries, markers, strict=False))
    ]
