"""The files of a report, each replaced as a whole: report.csv, report.md, report.html and the figures in report/."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dit.checks import printable
from dit.files import replaced, write_text
from dit.report.files import fits_memory
from dit.report.page import Block, Heading, html, markdown
from dit.report.page import Figure as Picture
from dit.report.points import ResultTable, higher, scored, title, trained
from dit.report.read import Sweep, read_sweep
from dit.report.summary import as_csv, overview, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
_MOST_FIGURES = 100


@dataclass(frozen=True)
class Report:
    """What was written, and of which sweep."""

    sweep: Sweep
    csv: Path
    markdown: Path
    html: Path
    pictures: list[Picture]


def write_report(folder: Path) -> Report:
    """Read the sweep in `folder` and write its report there, replacing links rather than following them.

    Raises ValueError where there is no sweep, where the report cannot be written, and before anything is written if
    matplotlib is missing.
    """
    sweep = read_sweep(folder)
    pictures = _pictures(sweep)  # first: what cannot be drawn is told
    blocks: list[Block] = [*overview(sweep), *tables(sweep), *([Heading("Figures")] if pictures else []), *pictures]
    report = Report(sweep, folder / "report.csv", folder / "report.md", folder / "report.html", pictures)
    # The page last, so that its presence says that all the rest is there.
    for file, content in (
        (report.csv, as_csv(sweep)),
        (report.markdown, markdown(blocks, folder)),
        (report.html, html(blocks, folder)),
    ):
        write_text(file, content)
    return report


def _pictures(sweep: Sweep) -> list[Picture]:
    training, (scores, real) = trained(sweep), scored(sweep)
    if not (training.metrics or scores.rows or any(trial.picture for trial in sweep.trials)):
        return []
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("the figures of a report need matplotlib: pip install 'ditlab[train]'") from error
    from dit.report.style import STYLE

    with matplotlib.rc_context(STYLE):
        written: dict[str, Picture] = {}
        for name, caption, figure in _figures(sweep, training, scores, real):
            if len(written) == _MOST_FIGURES:
                sweep.remarks.append(f"after {_MOST_FIGURES} figures the rest is left out")
                break
            if drawn := _drawn(sweep.remarks, name, _formats, figure):
                stem = _file_name(name)
                stem = stem if stem not in written else f"{stem}_{len(written)}"
                files = [_figure_folder(sweep) / f"{stem}{suffix}" for suffix in drawn]
                for file, content in zip(files, drawn.values(), strict=True):
                    with replaced(file) as unfinished:
                        unfinished.write_bytes(content)
                written[stem] = Picture(caption, *files)
        return list(written.values())


def _formats(figure: Figure) -> dict[str, bytes]:
    """The contents of its files by their suffixes. Raises ValueError for a figure that is too large."""
    if not fits_memory(tuple(figure.get_size_inches()), 200):
        raise ValueError("it would be too large")
    made = {}
    for suffix, metadata in {".png": {}, ".pdf": {"CreationDate": None}}.items():
        content = BytesIO()  # without a date: the same numbers give the same file
        figure.savefig(content, format=suffix[1:], metadata=metadata)
        made[suffix] = content.getvalue()
    return made


def _figure_folder(sweep: Sweep) -> Path:
    folder = sweep.folder / "report"
    if folder.is_symlink():
        folder.unlink()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made: {error.strerror}") from error
    return folder


def _drawn(remarks: list[str], name: str, draw: Callable[..., T], *arguments: Any) -> T | None:
    """What `draw` makes of `arguments`; None, with a remark, for numbers or names of which it cannot make anything."""
    try:
        return draw(*arguments)
    except Exception as error:  # whatever matplotlib raises over values it was not made for
        why = " ".join(str(error).split()) or type(error).__name__
        remarks.append(printable(f"the figure {name} is left out: {why[:200]}"))
        return None


def _file_name(words: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", words).strip("_.")[:100]


def _figures(
    sweep: Sweep, training: ResultTable, scores: ResultTable, real: ResultTable
) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure, the most telling first."""
    from dit.report.heat import heat_map, is_filled
    from dit.report.lines import against_key, against_scale, curves
    from dit.report.samples import sheets

    band = " Band: lowest to highest of the seeds, line: their mean." if len(sweep.seeds) > 1 else ""
    mean = " Mean ± standard deviation over the seeds." if len(sweep.seeds) > 1 else ""
    attempt = functools.partial(_drawn, sweep.remarks)
    for measured in (scores, training):
        for metric in measured.metrics:
            if higher(metric) is None:
                continue
            named, on_scale = title(metric), None
            if measured is scores:
                on_scale = attempt(f"scale {metric}", against_scale, scores, real, metric)
            if on_scale:
                yield f"scale {metric}", f"{named} against guidance scale.{band}", on_scale
            if is_filled(measured):
                if figure := attempt(f"heat {metric}", heat_map, measured, metric):
                    yield (
                        f"heat {metric}",
                        f"{named} by {_and(measured)}.{mean} Bright is good, the frame marks the best.",
                        figure,
                    )
            elif measured.keys and not on_scale:
                bars = " Bars and bands: lowest to highest of the seeds." if band else ""
                if figure := attempt(f"key {metric}", against_key, measured, metric):
                    yield f"key {metric}", f"{named} against {_and(measured)}.{bars}", figure
    for metric in ("val/loss", "train/loss"):
        if metric in training.metrics and (figure := attempt(f"curves {metric}", curves, training, metric)):
            yield f"curves {metric}", f"{metric} against optimiser steps.{band}", figure
            break
    for seed in sweep.seeds[:1]:
        of_scores = None if sweep.swept else attempt("samples", sheets, scores, seed)
        for choice, figure in of_scores or attempt("samples", sheets, training, seed) or []:
            noise = f" from the same noise (seed {seed})" if seed else " from the same noise"
            yield f"samples {choice}", f"Samples{f', {choice},' if choice else ''}{noise}.", figure


def _and(measured: ResultTable) -> str:
    return ", ".join(measured.keys)
