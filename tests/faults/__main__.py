"""`python -m tests.faults`: every kind of fault, a table of what was tried, exit code 1 where something differed."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

# Before torch is imported: copies of this process run as fresh processes with one thread would.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}

from rich.console import Console

from tests.faults import disk, killed, ranks
from tests.faults.campaign import Campaign

PARTS = {
    "killed": lambda campaign: killed.kills(campaign, 40),
    "fresh": lambda campaign: killed.kills_of_fresh_processes(campaign, 4),
    "writes": lambda campaign: killed.kills_in_writes(campaign, 12),
    "moments": lambda campaign: killed.kills_at_moments(campaign, 2),
    "signals": lambda campaign: killed.signals(campaign, 4),
    "damaged": killed.damaged,
    "full": lambda campaign: disk.full_disks(campaign, (0, 100_000, 0)),
    "unwritable": disk.unwritable,
    "ranks": ranks.ranks_killed,
    "launcher": ranks.launcher_struck,
    "poisoned": ranks.poisoned,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all of them by default")
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    if unknown := set(said.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves nothing behind
    console = Console(width=None if sys.stdout.isatty() else 130)
    with tempfile.TemporaryDirectory(prefix="faults", ignore_cleanup_errors=True) as folder:
        campaign = Campaign(Path(folder), said.seed, console)
        for part in said.parts or PARTS:
            PARTS[part](campaign)
    console.print(campaign.table())
    return int(campaign.failed)


if __name__ == "__main__":
    sys.exit(main())
