"""docs/benchmarks.md, from the JSON of one machine or several; nothing is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.tables import markdown

FILE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
HEAD = """# Speed

Made by `python -m benchmarks.speed --write-docs`; what the columns mean is in
[benchmarks/README.md](../benchmarks/README.md). Ours and diffusers' take turns in every round of one run, on the same
pictures, at the same precision, with the same optimiser. A ratio is the median over the rounds of how many times as
fast one is, and its quartiles stand beside it. Compare ratios between machines, not seconds.
"""
NO_GPU = "The part for GPUs (`--device cuda`) is written and has never run: no GPU was at hand.\n"


def write(files: Sequence[Path], page: Path = FILE) -> Path:
    """ValueError for a file that does not hold figures."""
    found = [read(file) for file in files]
    parts = [HEAD]
    if all(each["machine"]["device"] != "cuda" for each in found):
        parts.append(NO_GPU)
    page.write_text("\n".join([*parts, *map(section, found)]))
    return page


def read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
        _ = found["machine"]["device"], found["parts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--write-docs takes files that benchmarks.speed wrote, got {file}") from error
    return found


def section(kept: dict[str, Any]) -> str:
    from benchmarks.speed.__main__ import PARTS

    machine = kept["machine"]
    gpu = f"{machine['gpu']} (CUDA {machine['cuda']}), " if "gpu" in machine else ""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "diffusers", "lightning"))
    lines = [
        f"## {machine.get('gpu', machine['cpu'])}",
        "",
        f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB; {versions}, "
        f"Python {machine['python']}.",
        "",
    ]
    for part, (_, tables) in PARTS.items():
        if part not in kept["parts"]:
            continue
        result = kept["parts"][part]
        quick = " **A trial of the tool with a tiny model; the figures mean nothing.**" if result["quick"] else ""
        minutes = max(1, round(result["took"] / 60))
        lines.append(f"`{result['command']}`, {result['date']}, part {part}: {minutes} min.{quick}\n")
        lines += [markdown(table) + "\n" for table in tables(result)]
    return "\n".join(lines)
