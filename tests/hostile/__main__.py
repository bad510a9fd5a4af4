"""`python -m tests.hostile`: 300 damaged files and 200 hostile values, a table, exit code 1 where one was not met."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.hostile.campaign import OUTCOMES, damage, strange
from tests.hostile.kinds import KINDS

# Those that say something of what is in them; kept scores are the user's own.
WRITTEN = [name for name in KINDS if name not in ("PNG", ".npz of pictures", "classifier", "features", "kept scores")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--damaged", type=int, default=300)
    parser.add_argument("--values", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    table, wrongs = Table("file", "struck by", "times", *OUTCOMES), []
    with tempfile.TemporaryDirectory(prefix="hostile") as folder:
        for title, what, names, count in (
            ("damage", damage, list(KINDS), said.damaged),
            ("values", strange, WRITTEN, said.values),
        ):
            for index, name in enumerate(names):
                share = count // len(names) + (index < count % len(names))
                tally, wrong = what(name, Path(folder), share, said.seed)
                table.add_row(name, title, str(share), *(str(tally[outcome]) for outcome in OUTCOMES))
                wrongs += wrong
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False, highlight=False)
    console.print(table)
    for wrong in wrongs:
        console.print(ascii(wrong), soft_wrap=True)
    return int(bool(wrongs))


if __name__ == "__main__":
    sys.exit(main())
