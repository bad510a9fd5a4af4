"""`python -m tests.mistakes`: 500 command lines with a strange value, over all keys of all commands; a table, and exit
code 1 where one was not met by a sentence."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Before torch is imported: copies of this process run as fresh processes with one thread would.
os.environ |= {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0", "WANDB_MODE": "offline"}

from rich.console import Console
from rich.table import Table

from tests.mistakes.command import OUTCOMES, Commands


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mistakes", description=__doc__)
    parser.add_argument("commands", nargs="*", help="of train, sample, evaluate, inspect, latents; all by default")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a part of the keys to try")
    said = parser.parse_args()
    rng, console = random.Random(said.seed), Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with tempfile.TemporaryDirectory(prefix="mistakes") as folder:
        commands = Commands(Path(folder))
        names = said.commands or list(commands.keys)
        table, wrongs, slowest = Table("command", "keys", *OUTCOMES, "wrong"), [], 0.0
        for index, name in enumerate(names):
            tally: Counter[str] = Counter()
            keys = [key for key in commands.keys[name] if said.only is None or said.only in key]
            for _ in range(said.count // len(names) + (index < said.count % len(names))):
                met = commands.strike(name, rng.choice(keys), rng)
                tally[met.outcome] += 1
                slowest = max(slowest, met.seconds)
                if met.outcome not in OUTCOMES:
                    wrongs.append(f"{name} {met.override}: {met.outcome}: {met.said}")
                    print(ascii(wrongs[-1]), file=sys.stderr, flush=True)
            wrong = sum(tally.values()) - sum(tally[outcome] for outcome in OUTCOMES)
            table.add_row(name, str(len(keys)), *(str(tally[outcome]) for outcome in OUTCOMES), str(wrong))
    console.print(table)
    console.print(f"the slowest took {slowest:.0f} s", markup=False)
    return int(bool(wrongs))


if __name__ == "__main__":
    sys.exit(main())
