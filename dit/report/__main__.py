"""The report of a sweep: `python -m dit.report DIR` writes report.html, report.md and report.csv into it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dit.checks import printable
from dit.report.summary import columns
from dit.report.write import Report, write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 after a mistake, which is told in one sentence."""
    parser = argparse.ArgumentParser(prog="python -m dit.report", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a sweep of train.py or evaluate.py")
    parser.add_argument("--wandb", metavar="PROJECT", help="log it there too; WANDB_MODE=offline needs no account")
    said = parser.parse_args(arguments)
    try:
        report = write_report(said.folder)
        if said.wandb is not None:
            _log(report, said.wandb)
    except (ValueError, OSError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    print(printable(f"report: {report.html}, with report.md and report.csv"))
    return 0


def _log(report: Report, project: str) -> None:
    """One wandb run: the table of report.csv, the figures and the page. Raises ValueError if it cannot be written."""
    try:
        import wandb
    except ImportError as error:
        raise ValueError("--wandb needs wandb: pip install 'ditlab[train]'") from error
    header, rows = columns(report.sweep)
    folder = report.sweep.folder.resolve()
    if (folder / "wandb").is_symlink():
        raise ValueError(f"{folder / 'wandb'} is a link, which wandb would write through: remove it")
    # A column of a wandb table has one type; values of overrides are words.
    table = wandb.Table(
        columns=list[Any](header), data=[[None if v == "" else v for v in row] for row in rows], allow_mixed_types=True
    )
    with wandb.init(project=project, name=printable(folder.name), job_type="report", dir=str(folder)) as run:
        pictures = {f"report/{p.png.stem}": wandb.Image(str(p.png), caption=p.caption) for p in report.pictures}
        page = wandb.Html(report.html.read_text(encoding="utf-8"), inject=False)
        run.log({"report/table": table, "report/page": page, **pictures})


if __name__ == "__main__":
    sys.exit(main())
