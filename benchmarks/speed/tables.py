"""Figures as tables, for the terminal and for docs/benchmarks.md from the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.rounds import Spread, speed_up, spread


@dataclass(frozen=True)
class Table:
    """rows: the first cell names what is measured, the others are numbers. notes: sentences beneath."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)


ABOVE = (
    "{}: a share above 100 % means that the machine was disturbed while plain products were measured; measure again."
)


def show(table: Table, console: Console) -> None:
    console.print(f"\n{table.title}", style="bold", highlight=False)
    drawn = RichTable(box=None, pad_edge=False)
    for place, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if place else "left")
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)
    for note in table.notes:
        console.print(note, style="dim", highlight=False)


def markdown(table: Table) -> str:
    lines = [f"### {table.title}", "", "| " + " | ".join(table.columns) + " |"]
    lines.append("| " + " | ".join(["---", *["---:"] * (len(table.columns) - 1)]) + " |")
    lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join([*lines, *(line for note in table.notes for line in ("", note))])


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value < 1 else f"{value:.{1 if value >= 10 else 2}f}"


def times(ratio: Spread) -> str:
    return f"{ratio.median:.2f}"


def quartiles(ratio: Spread) -> str:
    return f"{ratio.low:.2f}-{ratio.high:.2f}"


def share(value: float) -> str:
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def against(title: str, seconds: dict[str, list[float]], compared: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """Each arm over the fastest of those it is compared with, where both were measured; the seconds of each round."""
    rows: list[list[str]] = []
    for mine, others in compared:
        there = [other for other in others if other in seconds]
        if mine not in seconds or not there:
            continue
        other = min(there, key=lambda arm: spread(seconds[arm]).median)
        if [mine, other] not in [row[:2] for row in rows]:
            ratio = speed_up(seconds[mine], seconds[other])
            rows.append([mine, other, times(ratio), quartiles(ratio)])
    return Table(title, ["this", "over this", "ratio", "quartiles"], rows)


def label(model: str) -> str:
    """s2 as papers write it."""
    return f"DiT-{model[:-1].upper()}/{model[-1]}" if model[-1].isdigit() else f"the {model} model"
