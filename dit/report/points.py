"""What was measured at which choice: trials that differ in the seed alone are one point."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from dit.report.read import Sweep, Trial, number, ordered, override

HIGHER = {  # what counts as good; of other columns of metrics.csv nothing is the best
    "loss": False,
    "frechet": False,
    "spatial_frechet": False,
    "kid": False,
    "inception_score": True,
    "precision": True,
    "recall": True,
    "density": True,
    "coverage": True,
    "accuracy": True,
}
TITLES = {
    "frechet": "Frechet distance",
    "spatial_frechet": "spatial Frechet distance",
    "kid": "KID",
    "inception_score": "inception score",
    "accuracy": "class accuracy",
}
REAL = "real pictures"


def higher(metric: str) -> bool | None:
    """Whether more is better; None where nothing says. The training loss is none to choose by: it depends on what is
    swept."""
    name = metric.rpartition("/")[2]
    return None if metric.startswith("train/") or name not in HIGHER else HIGHER[name]


def title(metric: str) -> str:
    return TITLES.get(metric, metric)


@dataclass(frozen=True)
class Row:
    """One measurement. choice: its value of each key; intervals: low and high of the metrics that have them."""

    trial: Trial
    choice: dict[str, str]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    scale: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation of `count` finite values; of others, `diverged` many, nothing can be said."""

    mean: float
    std: float
    count: int
    diverged: int


@dataclass(frozen=True)
class Point:
    """The rows of one choice, one a seed."""

    choice: dict[str, str]
    rows: Sequence[Row]

    @property
    def counted(self) -> list[Row]:
        return [row for row in self.rows if row.trial.counts]

    def stat(self, metric: str) -> Stat | None:
        """Over the trials that finished; None where none of them has the metric."""
        values = [row.metrics[metric] for row in self.counted if metric in row.metrics]
        finite = [value for value in values if math.isfinite(value)]
        if not values:
            return None
        mean = fmean(finite) if finite else math.nan
        return Stat(mean, stdev(finite) if len(finite) > 1 else 0.0, len(finite), len(values) - len(finite))

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Of a single measurement; several seeds have their spread."""
        rows = self.counted
        return rows[0].intervals[metric] if len(rows) == 1 and metric in rows[0].intervals else None

    @property
    def state(self) -> str:
        """Why it has no numbers: 'failed', or several with how many; empty if a trial of it finished."""
        if self.counted:
            return ""
        return ", ".join(dict.fromkeys(row.trial.state for row in self.rows))


@dataclass(frozen=True)
class ResultTable:
    """Rows that have the same keys and metrics, as points. keys: the values of each, by size or as they came."""

    keys: dict[str, list[str]]
    metrics: list[str]
    rows: list[Row]

    @property
    def points(self) -> list[Point]:
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            groups.setdefault(tuple(row.choice.values()), []).append(row)
        return [Point(rows[0].choice, rows) for rows in groups.values()]

    def best(self, metric: str) -> float | None:
        """The best mean of all points; None where nothing tells them apart."""
        means = [s.mean for point in self.points if (s := point.stat(metric)) and not math.isnan(s.mean)]
        up = higher(metric)
        return None if up is None or len(set(means)) < 2 else (max if up else min)(means)


def trained(sweep: Sweep) -> ResultTable:
    """The last value of each column of metrics.csv; a row a trial. Metrics: what a choice can be judged by, and the
    training loss."""
    rows = []
    for trial in sweep.trials:
        last = {key: curve[max(curve)] for key, curve in trial.curves.items()}
        rows.append(Row(trial, {key: override(trial, key) for key in sweep.swept}, last))
    found = dict.fromkeys(key for row in rows for key in row.metrics)
    judged = [key for key in found if higher(key) is not None]
    shown = sorted(judged, key=lambda key: not key.startswith("val/")) + [key for key in found if key == "train/loss"]
    return ResultTable(dict(sweep.swept), shown, rows)


def scored(sweep: Sweep) -> tuple[ResultTable, ResultTable]:
    """The scores of the samples at the last step of each trial, and those of real pictures; a row a row of scores.json.

    Its keys are the swept ones and those facts of a row that they do not decide: scale, solver and so on. Without
    overrides, all facts that differ.
    """
    rows: list[tuple[Trial, dict[str, Any], dict[str, str]]] = []
    real: list[Row] = []
    for trial in sweep.trials:
        last = max((row["step"] or 0 for row in trial.scores if row["name"] != REAL), default=0)
        for row in trial.scores:
            if row["name"] == REAL:
                real.append(_row(trial, row, {"name": REAL}))
            elif (row["step"] or 0) == last:
                rows.append((trial, row, _facts(trial, row)))
    undecided = _undecided(sweep, [(trial, facts) for trial, _, facts in rows])
    made = []
    for trial, row, facts in rows:
        choice = {key: override(trial, key) for key in sweep.swept} | {name: facts[name] for name in undecided}
        made.append(_row(trial, row, choice))
    keys = {key: ordered(row.choice[key] for row in made) for key in dict.fromkeys((*sweep.swept, *undecided))}
    names = dict.fromkeys(name for row in (*made, *real) for name in row.metrics)
    metrics = [name for name in HIGHER if name in names] + [name for name in names if name not in HIGHER]
    return ResultTable(keys, metrics, made), ResultTable({}, metrics, real)


def _undecided(sweep: Sweep, rows: Sequence[tuple[Trial, dict[str, str]]]) -> list[str]:
    """Facts that differ between the rows of one trial, or between any where no trial has overrides."""
    told = any(trial.overrides for trial in sweep.trials)
    first: dict[int, dict[str, str]] = {}
    found: set[str] = set()
    for trial, facts in rows:
        before = first.setdefault(trial.number if told else 0, facts)
        found |= {name for name in facts if before[name] != facts[name]}
    return [name for name in _FACTS if name in found]


_FACTS = ("checkpoint", "weights", "guidance", "solver", "steps", "scale")


def _facts(trial: Trial, row: dict[str, Any]) -> dict[str, str]:
    """What was chosen for a row of scores, in words."""
    protocol = trial.protocol if isinstance(trial.protocol, dict) else {}
    told = protocol | row
    facts = {name: "" if name not in told or told[name] is None else told[name] for name in _FACTS}
    return {name: _words(fact) for name, fact in facts.items()}


def _words(fact: Any) -> str:
    """A rule or solver by its name, a nest of rules as tnr(cfg)."""
    if not isinstance(fact, dict):
        return f"{fact:g}" if isinstance(fact, float) else str(fact)
    name = str(fact["name"]) if "name" in fact else _listed(fact)
    return f"{name}({_words(fact['inner'])})" if "inner" in fact else name


def _listed(facts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_words(value)}" for key, value in facts.items() if value is not None)


def _row(trial: Trial, row: dict[str, Any], choice: dict[str, str]) -> Row:
    values = {name: value for name, (value, _, _) in row["scores"].items()}
    intervals = {n: (low, high) for n, (_, low, high) in row["scores"].items() if low is not None and high is not None}
    return Row(trial, choice, values, intervals, number(row["scale"]), row["name"])


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each key by its last name, where that is enough to tell it from the others."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def short_values(values: Sequence[str]) -> dict[str, str]:
    """Paths without the folders, and endings, that all of them share."""
    if len(values) < 2 or not all("/" in value for value in values):
        return {value: value for value in values}
    parts = [re.split(r"(?<=/)", value) for value in values]
    front = next((i for i, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1), 0)
    back = next((i for i, names in enumerate(zip(*map(reversed, parts), strict=False)) if len(set(names)) > 1), 0)
    kept = ["".join(names[front : len(names) - back]).strip("/") for names in parts]
    return dict(zip(values, kept if len(set(kept)) == len(kept) and all(kept) else values, strict=True))


def text(value: float, like: float | None = None) -> str:
    """Four significant digits, or as many decimals as `like` is given with."""
    size = abs(value if like is None else like)
    if not math.isfinite(value):
        return "diverged"
    if size == 0 or 1e-4 <= size < 1e6:
        return f"{value:.{max(0, min(7, 3 - math.floor(math.log10(size)))) if size else 0}f}"
    return f"{value:.3e}"


def stat_text(point: Point, metric: str) -> str:
    """mean, with ± its standard deviation over the seeds or [low, high] of its interval."""
    stat = point.stat(metric)
    if stat is None:
        return point.state or "n/a"
    if stat.count == 0:
        return "diverged"
    shown = text(stat.mean)
    if stat.count > 1:
        shown += f" ± {text(stat.std, stat.mean)}"
    elif interval := point.interval(metric):
        shown += f" [{text(interval[0], stat.mean)}, {text(interval[1], stat.mean)}]"
    return shown + (f" ({stat.diverged} diverged)" if stat.diverged else "")
