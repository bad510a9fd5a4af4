"""The files of a report, each replaced as a whole: report.csv, report.md, report.html and the figures in report/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from dit.evaluation.report.page import Block, Heading, html, markdown
from dit.evaluation.report.page import Figure as Picture
from dit.evaluation.report.points import Measured, higher, scored, title, trained
from dit.evaluation.report.read import Sweep, read_sweep
from dit.evaluation.report.summary import as_csv, overview, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Report:
    """What was written, and of which sweep."""

    sweep: Sweep
    csv: Path
    markdown: Path
    html: Path
    pictures: list[Picture]


def write_report(folder: Path) -> Report:
    """Reads the sweep in `folder` and writes its report there. ValueError where there is no sweep, and before anything
    is written where matplotlib is missing."""
    sweep = read_sweep(folder)
    told, judged = overview(sweep), tables(sweep)
    pictures = _pictures(sweep)
    blocks: list[Block] = [*told, *judged, *([Heading("Figures")] if pictures else []), *pictures]
    report = Report(sweep, folder / "report.csv", folder / "report.md", folder / "report.html", pictures)
    # The page last, so that its presence says that all the rest is there.
    for file, content in (
        (report.csv, as_csv(sweep)),
        (report.markdown, markdown(blocks, folder)),
        (report.html, html(blocks, folder)),
    ):
        _replace(file, content.encode())
    return report


def _replace(file: Path, content: bytes) -> None:
    """As a whole: a reader has the old file or the new one."""
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _pictures(sweep: Sweep) -> list[Picture]:
    training, (scores, real) = trained(sweep), scored(sweep)
    if not (training.metrics or scores.rows or any(trial.picture for trial in sweep.trials)):
        return []
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("the figures of a report need matplotlib: pip install 'ditlab[train]'") from error
    from dit.evaluation.report.style import STYLE

    with matplotlib.rc_context(STYLE):
        written = []
        for name, caption, figure in _figures(sweep, training, scores, real):
            files = [sweep.folder / "report" / f"{_file_name(name)}.{ending}" for ending in ("png", "pdf")]
            files[0].parent.mkdir(exist_ok=True)
            for file, metadata in zip(files, ({}, {"CreationDate": None}), strict=True):
                drawn = BytesIO()  # without a date: the same numbers give the same file
                figure.savefig(drawn, format=file.suffix[1:], metadata=metadata)
                _replace(file, drawn.getvalue())
            written.append(Picture(caption, *files))
        return written


def _file_name(words: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", words).strip("_.")


def _figures(sweep: Sweep, training: Measured, scores: Measured, real: Measured) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure, the most telling first."""
    from dit.evaluation.report.heat import heat_map, is_filled
    from dit.evaluation.report.lines import against_key, against_scale, curves
    from dit.evaluation.report.samples import sheets

    band = " Band: lowest to highest of the seeds, line: their mean." if len(sweep.seeds) > 1 else ""
    mean = " Mean ± standard deviation over the seeds." if len(sweep.seeds) > 1 else ""
    for measured in (scores, training):
        for metric in measured.metrics:
            if higher(metric) is None:
                continue
            named = title(metric)
            on_scale = against_scale(scores, real, metric) if measured is scores else None
            if on_scale:
                yield f"scale {metric}", f"{named} against guidance scale.{band}", on_scale
            if is_filled(measured):
                if figure := heat_map(measured, metric):
                    yield (
                        f"heat {metric}",
                        f"{named} by {_and(measured)}.{mean} Bright is good, the frame marks the best.",
                        figure,
                    )
            elif measured.keys and not on_scale and (figure := against_key(measured, metric)):
                bars = " Bars and bands: lowest to highest of the seeds." if band else ""
                yield f"key {metric}", f"{named} against {_and(measured)}.{bars}", figure
    for metric in ("val/loss", "train/loss"):
        if metric in training.metrics and (figure := curves(training, metric)):
            yield f"curves {metric}", f"{metric} against optimiser steps.{band}", figure
            break
    for seed in sweep.seeds[:1]:
        for choice, figure in sheets(training if sweep.swept else scores, seed) or sheets(training, seed):
            noise = f" from the same noise (seed {seed})" if seed else " from the same noise"
            yield f"samples {choice}", f"Samples{f', {choice},' if choice else ''}{noise}.", figure


def _and(measured: Measured) -> str:
    return ", ".join(measured.keys)
