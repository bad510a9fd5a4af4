"""Scores for people and for programs: rows of a table, and the protocol they were measured under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dit.checks import printable
from dit.files import write_json
from dit.metrics.intervals import Estimate

_HEADINGS = {
    "accuracy": "accuracy",
    "frechet": "Frechet",
    "spatial_frechet": "spatial",
    "kid": "KID",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
_FRACTIONS = {"accuracy", "precision", "recall", "density", "coverage"}


@dataclass(frozen=True)
class Row:
    """Scores of one set of images, and how it was sampled; None where it was not, as for real pictures."""

    name: str
    images: int
    scores: Mapping[str, Estimate | None]
    step: int | None = None
    weights: str | None = None
    guidance: dict[str, Any] | None = None
    scale: float | None = None
    solver: dict[str, Any] | None = None
    steps: int | None = None
    grid: dict[str, Any] | None = None
    evaluations: int | None = None
    rows: float | None = None
    seconds: float | None = None

    def value(self, name: str) -> float | None:
        score = self.scores.get(name)
        return None if score is None else score.value

    def plain(self) -> dict[str, Any]:
        scores = {name: None if score is None else asdict(score) for name, score in self.scores.items()}
        return {**vars(self), "scores": scores}


def rule(spec: Mapping[str, Any]) -> str:
    """What `describe` says of a guidance, for people: a nest of rules as TNR(CFG 1.5)."""
    scale = next((spec[name] for name in ("scale", "lam", "scales") if name in spec), None)
    if isinstance(scale, dict):
        scale = f"{scale['name']} {scale['low']:g}-{scale['high']:g}"
    own = "" if scale is None else f" {scale:g}" if isinstance(scale, int | float) else f" {scale}"
    more = "".join(
        f", {name} {spec[name]}" for name in ("classes", "negative", "channels") if spec.get(name) is not None
    )
    inner = f"({rule(spec['inner'])})" if "inner" in spec else ""
    return f"{spec['name']}{own}{more}{inner}"


def scale_of(spec: Mapping[str, Any]) -> float | None:
    """The guidance scale of what `describe` says, that of the innermost rule which has one number."""
    inner = scale_of(spec["inner"]) if "inner" in spec else None
    own = next((spec[name] for name in ("scale", "lam") if name in spec), None)
    return inner if inner is not None else float(own) if isinstance(own, int | float) else None


def table(rows: Sequence[Row], width: int = 120) -> Group:
    """Values, and below each half of its 95 % interval, in as many tables below each other as it takes not to be wider
    than `width` characters. What no row has is left out."""
    shown = [name for name in _HEADINGS if any(row.scores.get(name) is not None for row in rows)]
    columns = {_HEADINGS[name]: [_cell(row.scores.get(name), name in _FRACTIONS) for row in rows] for name in shown}
    facts = {
        "images": [f"{row.images:,}" for row in rows],
        "NFE": [str(row.evaluations or "-") for row in rows],
        "rows": ["-" if row.rows is None else f"{row.rows:g}" for row in rows],
        "seconds": ["-" if row.seconds is None else f"{row.seconds:.1f}" for row in rows],
    }
    columns |= {heading: [Text(cell) for cell in cells] for heading, cells in facts.items() if set(cells) != {"-"}}
    names = [Text(printable(row.name)) for row in rows]  # which may come from files: no markup
    first = min(24, max(map(len, names)))
    tables: list[dict[str, list[Text]]] = [{}]
    room = width - first
    for heading, cells in columns.items():
        lines = [heading, *(line for cell in cells for line in cell.plain.splitlines())]
        room -= 1 + max(map(len, lines))
        if room < 0:
            tables.append({})
            room = width - first - 1 - max(map(len, lines))
        tables[-1][heading] = cells
    return Group(*(_table(names, part, first) for part in tables))


def _table(names: Sequence[Text], columns: Mapping[str, Sequence[Text]], first: int) -> Table:
    result = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    result.add_column("guidance", min_width=first)
    for heading in columns:
        result.add_column(heading, justify="right", no_wrap=True)
    for name, *cells in zip(names, *columns.values(), strict=True):
        result.add_row(name, *cells)
    return result


def _cell(score: Estimate | None, fraction: bool) -> Text:
    if score is None:
        return Text("-")
    value = f"{score.value:.3f}" if fraction else _short(score.value)
    if score.low is None or score.high is None:
        return Text(value)
    half = (score.high - score.low) / 2
    return Text.assemble(value, (f"\n±{half:.3f}" if fraction else f"\n±{_short(half)}", "dim"))


def _short(value: float) -> str:
    """Three to four digits: 0.012, 3.46, 14.2, 508, 7.95e+06."""
    return f"{value:.2f}" if 1 <= abs(value) < 10 else f"{value:.3g}"


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """What must stand beside the numbers for anybody to compare them."""
    reference, features = protocol["reference"], protocol["features"]
    worth = features.get("held_out_accuracy")
    parts = [
        f"{protocol['images']:,} images",
        *(f"{protocol[key]} labels" for key in ("labels",) if protocol.get(key)),
        *(f"seed {protocol[key]}" for key in ("seed",) if protocol.get(key) is not None),
        *(f"weights {protocol[key]}" for key in ("weights",) if protocol.get(key)),
        *(f"step {protocol[key]:,}" for key in ("step",) if protocol.get(key)),
        *(f"weak model {told['file'] or 'of'} {told['digest']}" for told in (protocol.get("weak"),) if told),
        "reference {name} ({count}, {digest})".format(
            name=reference["name"],
            count=f"{reference['images']:,} pictures" if reference["images"] else "moments alone",
            digest=reference["digest"],
        ),
        f"features {features['name']} {features['digest']}"
        + (f" (held-out accuracy {worth:.3f})" if worth is not None else ""),
        *(_real(told) for told in (protocol.get("real_pictures"),) if told),
        *(_computing(protocol) for key in ("precision",) if protocol.get(key)),
        *(f"{key} {protocol[key]}" for key in ("torch", "ditlab") if protocol.get(key)),
        "± is half of a 95 % interval",
    ]
    return f"protocol: {', '.join(parts)}"


def _real(told: Mapping[str, Any]) -> str:
    rule = "drawn as they come" if told["labels"] is None else "their labels those of the samples"
    return f"real pictures {told['images']:,} of {told['split']}, {rule}"


def _computing(protocol: Mapping[str, Any]) -> str:
    compiled = f" compiled by {protocol['compile']}" if protocol["compile"] else ""
    return f"{protocol['precision']}{compiled} on {protocol['device']} in batches of {protocol['batch_size']}"


def write_scores(
    file: Path, protocol: Mapping[str, Any], rows: Sequence[Row], before: Sequence[dict[str, Any]] = ()
) -> None:
    """scores.json; before: plain rows that come first. Raises ValueError where it cannot be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = [*before, *(row.plain() for row in rows)]
    content = {"line": protocol_line(protocol), "protocol": dict(protocol), "rows": plain}
    write_json(file, content, sealed=True)
