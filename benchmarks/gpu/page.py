"""docs/gpu.md, from what `make gpu` has kept; no figure is typed by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed.__main__ import PARTS
from benchmarks.speed.tables import Table, markdown, number, share

DOCS = Path(__file__).parents[2] / "docs"
BEGIN = "<!-- figures: written by `python -m benchmarks.gpu --write-docs` -->"


def write(out: Path, kept: dict[str, Any], page: Path = DOCS / "gpu.md") -> Path:
    """Replaces all that follows the line BEGIN. ValueError where nothing was measured."""
    if not kept["parts"]:
        raise ValueError(f"--out {out} holds no figures; run `make gpu` first")
    head = page.read_text().partition(BEGIN)[0] if page.exists() else ""
    page.write_text("\n".join([f"{head}{BEGIN}", "", *lines(kept)]).rstrip() + "\n")
    sheet = out / "run" / "sheet.png"
    if sheet.exists():
        shutil.copyfile(sheet, page.with_name("gpu.png"))
    return page


def lines(kept: dict[str, Any]) -> Iterator[str]:
    machine = kept["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "diffusers", "lightning"))
    yield f"{machine.get('gpu', machine['cpu'])}, {machine['cores']} cores; {versions}, Python {machine['python']}."
    if kept["quick"]:
        yield "\n**A trial of the tool with tiny models; the figures mean nothing.**"
    for name, part in kept["parts"].items():
        yield f"\n## {name}: {part['what']}\n"
        yield f"`{' '.join(part['command'])}`: {part['state']} after {part['took']:.0f} s of {part['limit']}."
        if part["result"] is None:
            yield from (f"\n    {line}" for line in part["said"])
            continue
        yield ""
        for table in tables(part["result"]):
            yield markdown(table) + "\n"
        if name == "run":
            yield "![The last preview of this run](gpu.png)"


def tables(result: dict[str, Any]) -> Iterator[Table]:
    if "resumed" in result:
        yield from of_run(result)
        return
    for name, part in result["parts"].items():
        yield from PARTS[name][1](part)


def of_run(told: dict[str, Any]) -> Iterator[Table]:
    resumed = told["resumed"]
    equal = (
        "equal to the bit"
        if not resumed["differ"]
        else f"{resumed['differ']} differ, by at most {resumed['largest']:.2g} of the tensor's largest value"
    )
    notes = [
        f"Killed with SIGKILL after {told['killed_after']:.0f} s and resumed from step {resumed['from_step']:,}: "
        f"at step {resumed['to_step']:,}, of {resumed['tensors']} tensors of weights, averages and optimiser {equal}.",
        f"{number(told['images_per_second'])} images/s between logs, at the median; {told['steps']:,} steps in all.",
        f"`{' '.join(told['command'])}`",
    ]
    losses = dict(map(tuple, told["losses"]))
    rows = []
    for row in told["scores"]:
        scores, step = row["scores"], row["step"]
        near = min(losses, key=lambda at: abs(at - step))
        cells = [
            f"{scores[name]['value']:.2f}" if name == "frechet" else share(scores[name]["value"]) for name in scores
        ]
        rows.append([f"{step:,}", row["name"], *cells, f"{losses[near]:.4f}"])
    columns = ["step", "samples", *(told["scores"][0]["scores"] if told["scores"] else []), "train/loss"]
    yield Table("Scores while it trains", columns, rows, notes)
