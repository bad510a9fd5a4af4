"""Look at pictures before training on them: `python -m data.inspect data=folder data.root=DIR out=OUT`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dit.checks import harmless, printable
from dit.files import given_path, replaced, write_json
from dit.launch import entry, plain
from dit.launch.options import Inspect


@entry("inspect", Inspect, configs="../../configs")
def main(config: DictConfig) -> None:
    # Here, because they load PyTorch: `--help` and the refusal of a typo do not wait for it.
    from data.inspect import contact_sheet, examine
    from data.inspect.printed import show

    options = plain(config)
    out, limit = given_path("out", options["out"]), options["limit"]
    data = instantiate(config.data)
    survey = data.survey()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} must be a folder to write to: {error.strerror}") from error
    # First, because latents need their autoencoder for it, which may be gone.
    sheet = contact_sheet(data, survey.train, options["classes_shown"], options["samples"])
    report = examine(data, survey, limit, _watched) | {"config": options["data"]}

    if sheet is not None:
        with replaced(out / "contact_sheet.png") as unfinished:
            sheet.save(unfinished, "PNG")
    with replaced(out / "classes.csv") as unfinished, unfinished.open("w", newline="", encoding="utf-8") as table:
        rows = csv.DictWriter(table, ["name", "train", "validation"])
        rows.writeheader()
        rows.writerows(entry | {"name": harmless(entry["name"])} for entry in report["classes"])
    # Last, so that its presence says that all the rest is there.
    write_json(out / "report.json", report)
    show(report, Console(highlight=False, markup=False, emoji=False))
    print(f"{printable(str(out))}: report.json, classes.csv" + (", contact_sheet.png" if sheet is not None else ""))
    if report["refused"]:
        raise SystemExit(1)


def _watched(items: Iterable[Any], total: int, title: str) -> Iterator[Any]:
    """The items, with a bar and the time that is left on a terminal."""
    console = Console(stderr=True)
    columns = TextColumn(title), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield from progress.track(items, total=total)


if __name__ == "__main__":
    main()
