"""Files and folders that appear under their names only when they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def check_out(out: str | Path, suffix: str | None = None) -> None:
    """ValueError, before any work, where `out` is there already, is in no folder, or does not end in `suffix`."""
    out = Path(out)
    if out.exists():
        raise ValueError(f"out={out} is there already; give another name")
    if not out.parent.is_dir():
        raise ValueError(f"out={out} cannot be written: {out.parent} is no folder")
    if suffix is not None and out.suffix != suffix:
        raise ValueError(f"out={out} must end in {suffix}")


@contextmanager
def whole(out: str | Path) -> Iterator[Path]:
    """A name beside `out` to write to, which becomes `out` at the end; nothing is left where that is not reached."""
    out = Path(out)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.rename(out)
    except BaseException as error:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise ValueError(f"out={out} cannot be written: {error}") from error
        raise
