"""What guidance rules and solvers do, measured: `python -m benchmarks.guidance` makes the numbers and figures of
docs/guidance.md.

`--part mixtures` needs no network, `--part digits` trains six small ones once. `--redraw` measures nothing and draws
from the JSON files of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.guidance import digits, mixtures, plots, tables

PARTS = {  # threads: tensors of a mixture are too small to share
    "mixtures": (1, mixtures.study, tables.mixture_tables, plots.draw_mixtures),
    "digits": (2, digits.study, tables.digit_tables, plots.draw_digits),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--out", type=Path, default=Path("docs/guidance"), help="folder of figures and numbers")
    parser.add_argument("--redraw", action="store_true", help="from the numbers in --out")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for part in [options.part] if options.part else PARTS:
        run(part, options.out, options.redraw)


def run(part: str, out: Path, redraw: bool) -> None:
    """Measure, unless it is there to redraw; then tables to the terminal and figures to the folder."""
    threads, study, make_tables, draw = PARTS[part]
    torch.set_num_threads(threads)
    file, begun = out / f"{part}.json", time.monotonic()
    console = Console(highlight=False)
    if not redraw:
        data = study(lambda line: console.print(f"{time.monotonic() - begun:5.0f} s  {line}"))
        file.write_text(json.dumps(rounded(data), indent=1) + "\n")
    data = json.loads(file.read_text())
    print(*make_tables(data), sep="\n")
    draw(data, out)


def rounded(value):
    """Plain containers with five digits a number, so that the file can be read and compared."""
    if isinstance(value, dict):
        return {str(key): rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
