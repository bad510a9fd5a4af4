"""The tables of docs/guidance.md in Markdown, from the numbers that were measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.guidance.arms import AT_SCALE_1

RUNS = (  # of `mixtures.unguided`, those that are tabulated
    "Euler, 24 rows, uniform",
    "Euler, 24 rows, log-SNR",
    "UniPC, 24 rows, log-SNR",
    "RK4, 24 rows, log-SNR",
    "converged",
)
MATCHED = 40.0
SCORES = {"frechet": 2, "accuracy": 3, "precision": 3, "recall": 3, "low_band": 3}


def markdown(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join([f"{title}:", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def mixture_tables(data: dict[str, Any]) -> list[str]:
    a, b = data["unguided"]["A"], data["unguided"]["B"]
    return [
        orders("RMS error of ODE solvers", data["orders"]),
        orders("Relative error of the variance of stochastic solvers", data["weak_orders"]),
        equal_nfe("RMS error from start to data, 24 evaluations", data["equal_nfe"], 24),
        unguided("Mixture A: SW2 (variance ratio; mean error)", a, "{sw2:.4f} ({variance:.2f}; {mean_error:.4f})"),
        unguided("Mixture B: SW2 (contrast; coarse std)", b, "{sw2:.2f} ({contrast:.2f}; {coarse_std:.2f})"),
        matched(f"Mixture A, exact: SW2 at log-odds {MATCHED:g}, interpolated", data["guided"]["A"]),
        guided("Mixture A, 40 % leak: least SW2 (its scale; variance ratio)", data["guided"]["A, 40 % leak"],
               "{sw2:.4f} ({scale:g}; {variance:.2f})"),
        guided("Mixture B: least SW2 (its scale; contrast; coarse std)", data["guided"]["B"],
               "{sw2:.2f} ({scale:g}; {contrast:.2f}; {coarse_std:.2f})"),
    ]  # fmt: skip


def orders(title: str, found: dict[str, Any]) -> str:
    rows = []
    for name, points in found.items():
        at = [f"{points['errors'][index]:.1e}" for index in (1, 2)]
        rows.append([name, f"{points['slope']:.2f}", *at])
    return markdown(title, ["solver", "order measured", "24 evaluations", "48 evaluations"], rows)


def equal_nfe(title: str, found: dict[str, Any], evaluations: int) -> str:
    columns = [(path, grid) for path in found for grid in ("uniform", "log-SNR")]
    rows = [
        [solver, *(f"{found[path][solver][f'{grid}, {evaluations}']:.4f}" for path, grid in columns)]
        for solver in next(iter(found.values()))
    ]
    return markdown(title, ["solver", *(f"{path}, {grid}" for path, grid in columns)], rows)


def unguided(title: str, by_path: dict[str, Any], cell: str) -> str:
    rows = []
    for path, arms in by_path.items():
        for run in RUNS:
            rows.append([path, run, *(cell.format(**arms[arm][run]) if arm in arms else "" for arm in AT_SCALE_1)])
    return markdown(title, ["schedule", "solver, grid", *AT_SCALE_1.values()], rows)


def guided(title: str, by_path: dict[str, Any], cell: str) -> str:
    rows = []
    for arm in next(iter(by_path.values())):
        found = [min(arms[arm], key=lambda run: run["sw2"]) if arm in arms else None for arms in by_path.values()]
        rows.append([arm, *(cell.format(**best) if best else "" for best in found)])
    return markdown(title, ["arm", *by_path], rows)


def matched(title: str, by_path: dict[str, Any]) -> str:
    """SW2 where an arm's mean log-odds are MATCHED; blank where no scale reaches them."""
    rows = []
    for arm in next(iter(by_path.values())):
        values = [at_margin(arms[arm]) if arm in arms else None for arms in by_path.values()]
        rows.append([arm, *("" if value is None else f"{value:.3f}" for value in values)])
    return markdown(title, ["arm", *by_path], rows)


def at_margin(runs: Sequence[dict[str, float]]) -> float | None:
    for low, high in pairwise(runs):
        if low["margin"] <= MATCHED < high["margin"]:
            share = (MATCHED - low["margin"]) / (high["margin"] - low["margin"])
            return low["sw2"] + share * (high["sw2"] - low["sw2"])
    return None


def digit_tables(data: dict[str, Any]) -> list[str]:
    real = [f"{data['real'][key]:.{digits}f}" for key, digits in SCORES.items()]
    tables = [markdown("Real training pictures", list(SCORES), [real])]
    for schedule, arms in data["schedules"].items():
        tables += [best(f"{schedule}, every arm at the scale of its least Frechet distance", arms)]
        tables += [by_scale(f"{schedule}, Frechet distance; accuracy; low band by scale", arms)]
    return tables


def best(title: str, arms: dict[str, Any]) -> str:
    """Also the difference of Frechet distances to the first arm, both at their best, paired by seed."""
    at_best = {name: found["scales"][found["best"]] for name, found in arms.items()}
    plain = next(iter(at_best.values()))["runs"]
    rows = []
    for name, found in at_best.items():
        mean, std = found["mean"], found["std"]
        gaps = [run["frechet"] - base["frechet"] for run, base in zip(found["runs"], plain, strict=True)]
        gap = f"{statistics.mean(gaps):+.2f} ± {statistics.stdev(gaps):.2f}" if found["runs"] is not plain else ""
        frechet, *others = (f"{mean[key]:.{digits}f} ± {std[key]:.{digits}f}" for key, digits in SCORES.items())
        rows.append([name, arms[name]["best"], f"{mean['steps']:g}", f"{mean['rows']:g}", frechet, gap, *others])
    head = list(SCORES)
    return markdown(title, ["arm", "scale", "steps", "rows", head[0], "against CFG", *head[1:]], rows)


def by_scale(title: str, arms: dict[str, Any]) -> str:
    rows = []
    for name, found in arms.items():
        means = {scale: run["mean"] for scale, run in found["scales"].items()}
        cells = (f"{s}: {m['frechet']:.2f}; {m['accuracy']:.3f}; {m['low_band']:.2f}" for s, m in means.items())
        rows.append([name, " / ".join(cells)])
    return markdown(title, ["arm", "scale: Frechet distance; accuracy; low band"], rows)
