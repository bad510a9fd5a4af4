"""What lies in a sweep's folder, which may be a stranger's: read as data, within bounds, and through no link out of it.

Each reader raises ValueError, with the reason alone, for what it refuses.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from dit.checks import printable
from dit.files import parse_json, unsealed

_MOST_BYTES = {".json": 1 << 24, ".yaml": 1 << 20, ".csv": 1 << 26, ".png": 1 << 28}
_MOST_COLUMNS = 10_000
_DEEPEST = 32  # levels of containers
_LONGEST = 10_000  # characters of a string
_MOST_PIXELS = 100_000_000  # of a figure


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path`, links followed, lies below the folder `root`."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
        return root.resolve() in path.resolve().parents
    except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a NUL
        return False


def content(file: Path, root: Path) -> bytes | None:
    """Of a regular file below `root`; None where there is none."""
    try:
        if not file.exists():
            return None
        if not is_inside(file, root):
            raise ValueError("it is a link out of the sweep's folder")
        if not file.is_file():  # a pipe would wait for ever, a device never end
            raise ValueError("it is no file")
        if (size := file.stat().st_size) > (most := _MOST_BYTES[file.suffix]):
            raise ValueError(f"it has {size:,} bytes, of which at most {most:,} are read")
        return file.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def read_object(file: Path, root: Path) -> dict[str, Any] | None:
    """A JSON object, as `told`."""
    raw = content(file, root)
    return None if raw is None else told(unsealed(parse_json(raw)))


def read_yaml(file: Path, root: Path) -> Any:
    """A YAML document without aliases, which Hydra writes none of, as `told`."""
    raw = content(file, root)
    if raw is None:
        return None
    loader, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0
    try:
        text = raw.decode()
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has aliases")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ValueError("it is nested too deeply")
        return told(yaml.load(text, Loader=loader))
    except ValueError:
        raise
    except Exception as error:  # constructors of scalars raise more than YAMLError
        raise ValueError("it is no YAML") from error


def rows(raw: bytes) -> Iterator[dict[str, str] | None]:
    """Of a CSV file with a header, a row at a time; None for a line that a kill or a full disk tore."""
    lines = io.TextIOWrapper(io.BytesIO(raw[: raw.rfind(b"\n") + 1]), encoding="utf-8", errors="replace")
    reader = csv.reader(lines)
    try:
        header = [_text(name) for name in next(reader, [])]
    except csv.Error:
        header = []
    if len(header) > _MOST_COLUMNS:
        raise ValueError(f"it has {len(header):,} columns, of which at most {_MOST_COLUMNS:,} are read")
    while True:
        try:
            cells = next(reader, None)
        except csv.Error:
            yield None
            continue
        if cells is None:
            break
        yield dict(zip(header, cells, strict=True)) if len(cells) == len(header) else None
    if raw and not raw.endswith(b"\n"):
        yield None


def read_picture(file: Path) -> np.ndarray:
    """The pixels [H, W, 3] of a PNG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # above 89 million
            with Image.open(file, formats=["PNG"]) as image:
                return np.asarray(image.convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError("it has far too many pixels") from error
    except Exception as error:  # decoders of torn pictures raise whatever they meet
        raise ValueError("it is torn or no PNG") from error


def fits_memory(inches: tuple[float, float], dpi: float) -> bool:
    """Whether a figure of that size can be drawn."""
    return inches[0] * inches[1] * dpi**2 <= _MOST_PIXELS


def told(value: Any, depth: int = 0) -> Any:
    """Plain containers of bounded depth, with strings that are printable and of bounded length."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {_text(str(key)): told(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [told(inner, depth + 1) for inner in value]
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return _text(str(value))


def _text(words: str) -> str:
    return printable(words if len(words) <= _LONGEST else f"{words[:_LONGEST]}...")
