"""Averages of other lengths, after training: `python -m dit.training.posthoc_ema run=DIR length=0.05`.

run=DIR      the folder of a run with ema=power; alone, its snapshots are listed
length=0.05  standard deviation of the average's weights, as a share of the run up to `step`
step=N       the last snapshot's if left out
out=FILE     the .safetensors file to write; DIR/ema_LENGTH_step_N.safetensors if left out
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dit.checks import printable
from dit.files import check_out
from dit.lazy import say_loading

_SETTINGS: dict[str, Callable[[str], Any]] = {"run": Path, "length": float, "step": int, "out": Path}


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 after a mistake, which is told in one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m dit.training.posthoc_ema",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE")
    try:
        said = _parsed(parser.parse_args(arguments).settings)
        say_loading()
        if "length" in said:
            _write(**said)
        else:
            _list(**said)
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def _parsed(settings: Sequence[str]) -> dict[str, Any]:
    said = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in _SETTINGS or key in said:
            raise ValueError(f"settings are {', '.join(f'{known}=' for known in _SETTINGS)} once each, got {setting}")
        try:
            said[key] = _SETTINGS[key](value)
        except ValueError as error:
            raise ValueError(f"{key} must be a number, got {value!r}") from error
    if "run" not in said or ("length" not in said and len(said) > 1):
        raise ValueError("give run=DIR length=0.05, or run=DIR alone to list its snapshots")
    return said


def _list(run: Path) -> None:
    from dit.checkpoint import SNAPSHOTS, list_snapshots

    for snapshot in list_snapshots(run / SNAPSHOTS):
        print(f"step {snapshot.step:>9,}  length {snapshot.length:<6}  {snapshot.file}")


def _write(run: Path, length: float, step: int | None = None, out: Path | None = None) -> None:
    from dit.checkpoint import reconstruct
    from dit.tensors import save_tensors

    made = reconstruct(run, length, step)
    out = run / f"ema_{length}_step_{made.step:07d}.safetensors" if out is None else out
    check_out(out, ".safetensors")
    print(f"{len(made.snapshots)} snapshots up to step {made.step}, {made.fit.residual:.1e} off")
    save_tensors(out, made.state(), made.stored.header, key="out")
    print(out)


if __name__ == "__main__":
    sys.exit(main())
