"""The figures of docs/guidance.md, from the numbers that were measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.guidance.arms import AT_SCALE_1

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "savefig.dpi": 160,
}
LOOKS = {  # arm: colour, marker, line
    "CFG": ("black", "o", "-"),
    "CFG, mean start": ("0.55", "s", "-"),
    "CFG, log-SNR grid": ("tab:cyan", "o", "-"),
    "CFG, UniPC-2": ("tab:blue", "o", "-"),
    "CFG, UniPC-2, log-SNR grid": ("tab:blue", "^", "--"),
    "TNR(CFG)": ("tab:red", "o", "-"),
    "TNR(CFG), u > 2": ("tab:red", "s", "--"),
    "TNR(CFG), UniPC-2": ("tab:pink", "^", "--"),
    "CFG++": ("tab:orange", "v", "-"),
    "Interval(CFG)": ("tab:green", "o", "-"),
    "APG": ("tab:purple", "o", "-"),
}
SCHEDULES = {"flow_linear": "linear flow", "ddpm_scaled_linear": "scaled linear"}


def look(arm: str) -> dict[str, str]:
    colour, marker, line = LOOKS[arm]
    return {"color": colour, "marker": marker, "linestyle": line, "label": arm}


def save(figure: Figure, out: Path, name: str) -> None:
    figure.savefig(out / f"{name}.png", bbox_inches="tight")
    plt.close(figure)


def legend_below(figure: Figure, axes: Iterable[Axes], columns: int) -> None:
    """One legend of everything any panel shows."""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=columns
    )  # fmt: skip


def draw_mixtures(data: dict[str, Any], out: Path) -> None:
    with plt.rc_context(STYLE):
        solvers(data, out)
        consistency(data["refinement"], out)
        strength(data["guided"], out)


def solvers(data: dict[str, Any], out: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axis, found in ((left, data["orders"]), (right, data["weak_orders"])):
        for index, (name, points) in enumerate(found.items()):
            label = f"{name} ({points['slope']:.2f})"
            colour, line = ("black" if index == 10 else f"C{index}"), ("-" if index % 2 else "--")
            axis.loglog(points["evaluations"], points["errors"], line, marker="o", color=colour, label=label)
        axis.set_xlabel("evaluations")
        axis.legend(title="solver (order measured)", fontsize=7, title_fontsize=7, loc="lower left")
    left.set_ylabel("RMS error at $\\sigma/\\alpha$ = 0.05")
    left.set_title("ODE solvers, mixture A", fontsize=9)
    right.set_ylabel("relative error of the variance")
    right.set_title("stochastic solvers, one Gaussian", fontsize=9)
    save(figure, out, "solvers")


def consistency(data: dict[str, Any], out: Path) -> None:
    figure, axes = plt.subplots(1, len(data), figsize=(10, 3.3), sharey=True, layout="constrained")
    for axis, (path, arms) in zip(axes, data.items(), strict=True):
        for arm, runs in arms.items():
            named = look(arm) | {"label": AT_SCALE_1[arm]}
            axis.loglog([run["steps"] for run in runs], [run["sw2"] for run in runs], **named)
        axis.set_title(path, fontsize=9)
        axis.set_xlabel("Euler steps, uniform in t")
    axes[0].set_ylabel("sliced $W_2$ to the truth")
    legend_below(figure, axes, 4)
    save(figure, out, "consistency")


def strength(data: dict[str, Any], out: Path) -> None:
    paths = ("scaled linear", "flow")
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for column, path in enumerate(paths):
        for arm, runs in data["A, 40 % leak"][path].items():
            axes[0, column].plot([run["margin"] for run in runs], [run["sw2"] for run in runs], **look(arm))
        for arm, runs in data["B"][path].items():
            axes[1, column].plot([run["contrast"] for run in runs], [run["coarse_std"] for run in runs], **look(arm))
        axes[0, column].set_title(f"{path}, mixture A, 40 % class leak", fontsize=9)
        axes[0, column].set_xlabel("log-odds of the own class (nats)")
        axes[0, column].set_xlim(26, 47)
        axes[0, column].set_ylim(0, 0.26)
        axes[1, column].plot([1], [1], marker="*", markersize=13, color="gold", markeredgecolor="black", zorder=5)
        axes[1, column].set_title(f"{path}, mixture B", fontsize=9)
        axes[1, column].set_xlabel("contrast of the class means (star: truth)")
    axes[0, 0].set_ylabel("sliced $W_2$ to the truth")
    axes[1, 0].set_ylabel("brightness std within a class / truth")
    legend_below(figure, axes.flat, 4)
    save(figure, out, "strength")


def draw_digits(data: dict[str, Any], out: Path) -> None:
    with plt.rc_context(STYLE):
        trade_offs(data["schedules"], data["real"], out)
        spectra(data["schedules"], out)


def trade_offs(schedules: dict[str, Any], real: dict[str, Any], out: Path) -> None:
    figure, axes = plt.subplots(2, len(schedules), figsize=(10, 7.4), layout="constrained")
    for column, (schedule, arms) in enumerate(schedules.items()):
        for row, (x, y) in enumerate((("accuracy", "frechet"), ("recall", "precision"))):
            axis = axes[row, column]
            for arm, found in arms.items():
                means = [scale["mean"] for scale in found["scales"].values()]
                axis.plot([mean[x] for mean in means], [mean[y] for mean in means], **look(arm))
            axis.plot([real[x]], [real[y]], marker="*", markersize=13, color="gold", markeredgecolor="black", zorder=5)
            frame(axis, arms, x, y, real)
            axis.set_title(SCHEDULES[schedule], fontsize=9)
        axes[0, column].set_yscale("log")
        axes[0, column].yaxis.set_major_locator(FixedLocator([1, 2, 3, 5, 10]))
        axes[0, column].yaxis.set_major_formatter("{x:g}")
        axes[0, column].yaxis.set_minor_locator(NullLocator())
        axes[0, column].set_xlabel("class accuracy (star: real pictures)")
        axes[1, column].set_xlabel("recall (star: real pictures)")
    axes[0, 0].set_ylabel("Frechet distance")
    axes[1, 0].set_ylabel("precision")
    legend_below(figure, axes.flat, 4)
    save(figure, out, "digits")


def frame(axis: Axes, arms: dict[str, Any], x: str, y: str, real: dict[str, Any]) -> None:
    """Limits by what is there apart from CFG++, whose lowest lambdas lie far outside."""
    shown = [scale["mean"] for arm, found in arms.items() if arm != "CFG++" for scale in found["scales"].values()]
    for key, limit in ((x, axis.set_xlim), (y, axis.set_ylim)):
        values = [real[key], *(mean[key] for mean in shown)]
        margin = 0.05 * (max(values) - min(values))
        limit(min(values) - margin, max(values) + margin)


def spectra(schedules: dict[str, Any], out: Path) -> None:
    shown = ("CFG", "CFG, mean start", "CFG, UniPC-2", "TNR(CFG)", "TNR(CFG), u > 2", "TNR(CFG), UniPC-2")
    figure, axes = plt.subplots(1, len(schedules), figsize=(10, 3.3), sharey=True, layout="constrained")
    for axis, (schedule, arms) in zip(axes, schedules.items(), strict=True):
        for arm in shown:
            if arm in arms:
                powers = arms[arm]["scales"]["1"]["spectrum"]
                axis.plot(range(len(powers)), powers, **look(arm))
        axis.axhline(1, color="0.7", linewidth=1)
        axis.set_title(f"{SCHEDULES[schedule]}, scale 1", fontsize=9)
        axis.set_xlabel("vertical + horizontal frequency")
    axes[0].set_ylabel("power, samples / real pictures")
    legend_below(figure, axes, 3)
    save(figure, out, "spectrum")
