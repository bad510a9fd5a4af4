"""A sweep in sentences and tables: what was swept, what became of the trials, which choice is best."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from dit.checks import harmless, printable
from dit.report.page import Block, Cell, Grid, Heading, Items, Say
from dit.report.points import Point, ResultTable, Row, scored, short_values, stat_text, title, trained
from dit.report.protocol import loss_protocol, score_protocol
from dit.report.read import STATES, Sweep, Trial


def overview(sweep: Sweep) -> list[Block]:
    """What was swept and how it went."""
    blocks: list[Block] = [Heading(f"Sweep {printable(sweep.folder.resolve().name)}", 1)]
    if sweep.running:
        blocks.append(Say("this sweep is still running; the report has what there is so far.", "warning"))
    states = [trial.state for trial in sweep.trials]
    counts = [f"{states.count(state)} {_STATE_WORDS[state]}" for state in STATES if state in states]
    blocks.append(Say(f"{len(states)} trial{'s' if len(states) != 1 else ''}: {', '.join(counts)}."))
    swept = [f"{key}: {', '.join(short_values(values).values())}" for key, values in sweep.swept.items()]
    if len(sweep.seeds) > 1:
        swept.append(f"seed: {', '.join(sweep.seeds)}")
    if swept:
        blocks += [Say("Swept:"), Items(swept)]
    if sweep.fixed:
        blocks.append(Say(f"The same in all trials: {' '.join(sweep.fixed)}", "protocol"))
    broken = [_broken(trial, sweep) for trial in sweep.trials if trial.state in ("failed", "unfinished")]
    if broken:
        blocks += [Heading("Trials without a result"), Items(broken)]
    remarks = [*sweep.remarks, *(f"#{trial.number}: {remark}" for trial in sweep.trials for remark in trial.remarks)]
    if remarks:
        blocks += [Heading("What could not be read"), Items(remarks)]
    return blocks


_STATE_WORDS = {state: state for state in STATES} | {"unknown": "of which nothing tells whether they finished"}


def _broken(trial: Trial, sweep: Sweep) -> str:
    """#3 diffusion=edm seed=1 failed at step 100: the loss is not finite."""
    names = [f"{key}={value}" for key, value in trial.overrides.items() if f"{key}={value}" not in sweep.fixed]
    at = "" if trial.step is None else f" at step {trial.step:,}"
    return " ".join([f"#{trial.number}", *names, trial.state]) + at + (f": {trial.error}" if trial.error else "")


def tables(sweep: Sweep) -> list[Block]:
    """The table of the validation losses and that of the scores, each with its protocol."""
    blocks: list[Block] = []
    training, (scores, real) = trained(sweep), scored(sweep)
    if training.metrics:
        line, warnings = loss_protocol(sweep)
        blocks.append(Heading("Losses"))
        blocks += [Say(warning, "warning") for warning in warnings]
        blocks.append(_table(training, [], steps=True))
        blocks.append(Say(_explained(training), "protocol"))
        if line:
            blocks.append(
                Say(f"Protocol: val/loss is of the averaged weights, val_raw/loss of the raw; {line}", "protocol")
            )
    if scores.rows:
        line, warnings = score_protocol(sweep)
        blocks.append(Heading("Scores"))
        blocks += [Say(warning, "warning") for warning in warnings]
        different = {tuple(row.metrics.items()): row for row in real.rows}
        blocks.append(_table(scores, [Point({}, list(different.values()))] if different else [], steps=False))
        blocks.append(Say(_explained(scores), "protocol"))
        blocks.append(Say(f"Protocol: {line or 'not told'}", "protocol"))
    if not blocks:
        blocks.append(Say("No trial has left metrics.csv or scores.json: there is nothing to compare."))
    return blocks


def _explained(measured: ResultTable) -> str:
    said = ["Bold: the best of its column."]
    if any(len(point.counted) > 1 for point in measured.points):
        said.append("±: standard deviation over the seeds.")
    if any(point.interval(metric) for point in measured.points for metric in measured.metrics):
        said.append("[low, high]: 95 % bootstrap interval.")
    return " ".join(said)


def _table(measured: ResultTable, real: Sequence[Point], steps: bool) -> Grid:
    points = measured.points
    seeds = any(len(point.rows) > 1 for point in points)
    reached = {point.counted[0].trial.step for point in points if point.counted}
    more = ["trials"] * (not measured.keys) + ["seeds"] * seeds + ["step"] * (steps and len(reached) > 1)
    values = {key: short_values(of) for key, of in measured.keys.items()}
    best = {metric: measured.best(metric) for metric in measured.metrics}
    rows = []
    for point in points:
        cells = [Cell(values[key][value]) for key, value in point.choice.items()]
        if "trials" in more:
            cells.append(Cell(", ".join(f"#{row.trial.number}" for row in point.rows)))
        if seeds:
            counted, all_ = len(point.counted), len(point.rows)
            cells.append(Cell(f"{counted}" if counted == all_ else f"{counted} of {all_}"))
        if "step" in more:
            found = sorted({row.trial.step for row in point.counted if row.trial.step is not None})
            cells.append(Cell(", ".join(f"{step:,}" for step in found) or "n/a"))
        for metric in measured.metrics:
            stat = point.stat(metric)
            cells.append(Cell(stat_text(point, metric), stat is not None and stat.mean == best[metric]))
        rows.append(cells)
    for point in real:
        blank = [Cell("")] * (max(0, len(measured.keys) - 1) + len(more))
        rows.append([Cell("real pictures"), *blank, *(Cell(stat_text(point, metric)) for metric in measured.metrics)])
    headings = [*measured.keys, *more, *map(title, measured.metrics)]
    return Grid(headings, rows, len(measured.keys) + ("trials" in more))


def columns(sweep: Sweep) -> tuple[list[str], list[list[Any]]]:
    """Of report.csv: every trial, with a row for each row of its scores, and all that was measured, as it was read."""
    scores, real = scored(sweep)
    by_trial: dict[int, list[Row]] = {}
    for row in (*scores.rows, *real.rows):
        by_trial.setdefault(row.trial.number, []).append(row)
    logged = list(dict.fromkeys(key for trial in sweep.trials for key in trial.curves))
    facts = [key for key in scores.keys if key not in sweep.swept]
    named = [name for metric in scores.metrics for name in (metric, f"{metric}_low", f"{metric}_high")]
    header = ["trial", *sweep.swept, "seed", "state", "error", "step", "value", *logged, "row", *facts, *named]
    lines = []
    for row in trained(sweep).rows:
        trial = row.trial
        start = [trial.number, *row.choice.values(), trial.seed, trial.state, trial.error, trial.step, trial.value]
        start += [row.metrics.get(key) for key in logged]
        for score in by_trial.get(trial.number, [None]):
            if score is None:
                lines.append([*start, *[None] * (1 + len(facts) + len(named))])
                continue
            found = [score.choice.get(key) for key in facts]
            for metric in scores.metrics:
                low, high = score.intervals.get(metric, (None, None))
                found += [score.metrics.get(metric), low, high]
            lines.append([*start, score.name, *found])
    return header, lines


def as_csv(sweep: Sweep) -> str:
    header, lines = columns(sweep)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([harmless(cell) if isinstance(cell, str) else cell for cell in line] for line in (header, *lines))
    return out.getvalue()
