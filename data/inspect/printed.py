"""The report as plain tables, no wider than the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dit.checks import printable

_SHOWN = 10  # of a long list
_CHANGES = {
    "grey_to_colour": "grey, repeated on 3 channels",
    "colour_to_grey": "coloured, made grey",
    "cmyk": "CMYK, converted",
    "palette": "palette, converted",
    "transparent_laid_on_white": "transparent, laid on white",
    "turned_upright": "turned upright as EXIF says",
    "enlarged": "smaller than image_size, enlarged",
}


def show(report: dict[str, Any], console: Console) -> None:
    """Prints everything but the long lists, of which it prints the beginnings. Names are shown as `printable` has them:
    a terminal would obey some."""
    report = _printable(report)
    facts = report["data"]
    size = f"{facts['image_size']} x {facts['image_size']}"
    console.print(f"{facts['module']}: {facts['classes']} classes, squares of {size}, channels: {facts['channels']}")
    console.print(_table(["classes", "train", "validation"], _classes(report["classes"])))
    console.print(_table(["pictures", "train", "validation"], _facts(report)))
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in list(report["ignored"]["kinds"].items())[:_SHOWN])
    if kinds:
        console.print(f"Ignored beside the pictures: {report['ignored']['files']:,} ({kinds})")
    for name, split in report["splits"].items():
        if count := split["identical"]["groups"]:
            several = split["identical"]["groups_of_several_classes"]
            console.print(f"Groups of identical squares in {name}: {count:,}, of several classes: {several:,}")
            _listed(console, [" = ".join(group[:4]) for group in split["identical"]["examples"]], count)
    if count := report["in_both"]["pictures"]:
        console.print(f"Validation pictures that are also training pictures: {count:,}")
        _listed(console, [" = ".join(pair) for pair in report["in_both"]["examples"]], count)
    for name, split in report["splits"].items():
        if misnamed := (split["files"] or {}).get("misnamed", {}).get("files"):
            console.print(f"Files of {name} of another format than their ending says: {misnamed:,}")
            _listed(console, split["files"]["misnamed"]["examples"], misnamed)
        if bad := split["unreadable"]:
            console.print(f"Files of {name} that cannot be read: {len(bad):,}")
            _listed(console, [b["reason"] for b in bad], len(bad))
    for title, sentences in (("Warnings:", report["warned"]), ("Training would refuse this:", report["refused"])):
        if sentences:
            console.print(title, style="bold")
            _listed(console, sentences, len(sentences))


def _printable(content: Any) -> Any:
    match content:
        case str():
            return printable(content)
        case dict():
            return {printable(key): _printable(value) for key, value in content.items()}
        case list() | tuple():
            return [_printable(value) for value in content]
    return content


def _table(titles: list[str], rows: Iterator[tuple[str, ...]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in titles:
        table.add_column(title, justify="left" if title == titles[0] else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _classes(classes: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    def row(entry: dict[str, Any]) -> tuple[str, ...]:
        return entry["name"], f"{entry['train']:,}", f"{entry['validation']:,}"

    if len(classes) <= 20:
        yield from map(row, classes)
        return
    ranked = sorted(classes, key=lambda entry: entry["train"])
    yield from map(row, ranked[:5])
    yield f"... {len(ranked) - 11} more", "", ""
    yield row(ranked[len(ranked) // 2] | {"name": f"{ranked[len(ranked) // 2]['name']} (the median)"})
    yield "...", "", ""
    yield from map(row, ranked[-5:])


def _facts(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    splits = report["splits"]

    def row(title: str, cell: Any) -> tuple[str, ...]:
        return title, *(cell(split) for split in splits.values())

    yield row("number", lambda s: f"{s['pictures']:,}")
    counts = [[entry[name] for entry in report["classes"]] for name in splits]
    yield "in a class (min, median, max)", *(_numbers([min(c), median(c), max(c)], "g") for c in counts)
    if all(split["files"] for split in splits.values()):
        for side in ("width", "height"):
            yield row(f"{side} (min, median, max)", lambda s, side=side: _numbers(s["files"][side], "g"))
        yield row(
            "most frequent sizes", lambda s: "\n".join(f"{w} x {h}: {n:,}" for w, h, n in s["files"]["sizes"][:4])
        )
        yield row("formats", lambda s: "\n".join(f"{kind}: {n:,}" for kind, n in s["files"]["formats"].items()))
        for key, title in _CHANGES.items():
            if any(split["files"]["changed"][key] for split in splits.values()):
                yield row(title, lambda s, key=key: f"{s['files']['changed'][key]:,}")
    yield row("unreadable", lambda s: f"{len(s['unreadable']):,}")
    yield row("decoded for what follows", lambda s: f"{s['decoded']:,}")
    yield row("identical to another", lambda s: f"{s['identical']['surplus']:,}")
    yield "identical to one of train", "", f"{report['in_both']['pictures']:,}"
    for key, title, form in (("pixels", "0 to 255", ".1f"), ("model_space", "model space", ".3f")):
        for what in ("mean", "std"):
            yield row(f"{what}, {title}", lambda s, k=key, w=what, f=form: _numbers(s[k] and s[k][w], f))


def _numbers(values: list[float] | None, form: str) -> str:
    return "-" if values is None else "  ".join(format(value, form) for value in values)


def _listed(console: Console, lines: list[str], count: int) -> None:
    for line in lines[:_SHOWN]:
        console.print(f"  {line}", soft_wrap=True)
    if count > _SHOWN:
        console.print(f"  ... and {count - _SHOWN:,} more")
