"""Look into checkpoints, take in those of others, give ours away: `python -m dit.checkpoint inspect FILE`."""

from __future__ import annotations

import argparse
import json
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit.checkpoint.sources import SOURCES
from dit.checks import printable
from dit.files import check_out
from dit.imports import import_modules
from dit.lazy import say_loading

if TYPE_CHECKING:
    from dit.checkpoint import Model

_WIDTH = 100  # of a table's second column


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 after a mistake, which is told in one sentence."""
    said = _parser().parse_args(arguments)
    say_loading()
    with warnings.catch_warnings(record=True, action="always") as told:
        try:
            import_modules(said.modules)
            said.command(said)
        except (ValueError, OSError) as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return 1
    for warning in told:
        print(f"warning: {printable(str(warning.message))}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dit.checkpoint", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="inspect | import | export")

    inspect = commands.add_parser("inspect", help="print what a checkpoint says of itself")
    inspect.add_argument("file", help=".ckpt, .safetensors, a folder of diffusers, or with --source those of others")
    inspect.add_argument("--source", choices=SOURCES)
    inspect.set_defaults(command=_inspect)

    take = commands.add_parser("import", help="make a checkpoint of others ours")
    take.add_argument("source", choices=SOURCES)
    take.add_argument("file", help=".pt or .pth file, or a folder of diffusers")
    take.add_argument("out", help="the .safetensors file to write")
    take.add_argument("--class-names", type=Path, help="a text file, one name a line, label by label")
    take.set_defaults(command=_import)
    for command in (inspect, take):
        command.add_argument("--num-heads", type=int, help="for widths of which no number of heads was published")
        command.add_argument("--num-classes", type=int, help="for a network trained without label dropout")
        command.add_argument("--class-tokens-from", type=int, help="the block from which JiT's class tokens stand")
        command.add_argument(
            "--setting",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="an option it was trained with, where its file does not say: path_type=GVP, noise_scale=2",
        )

    give = commands.add_parser("export", help="write weights and metadata for others")
    give.add_argument("file", help=".ckpt or .safetensors of ours")
    give.add_argument("out", help="the .safetensors file, or the folder for diffusers, to write")
    give.add_argument("--to", choices=("safetensors", "diffusers"), default="safetensors")
    give.add_argument("--vae", type=Path, help="folder of the autoencoder to put beside it, for diffusers")
    give.set_defaults(command=_export)
    for command in (inspect, take, give):
        command.add_argument(
            "--import", action="append", default=[], dest="modules", metavar="MODULE", help="with a network of yours"
        )
        command.add_argument("--weights", default="ema", help="ema (the default), raw, or an average's decay or length")
    return parser


def _inspect(said: argparse.Namespace) -> None:
    source = said.source or ("diffusers" if Path(said.file).is_dir() else None)
    if source is None:
        for name in ("num_heads", "num_classes", "class_tokens_from"):
            if getattr(said, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')}={getattr(said, name)} needs --source; ours say it")
        if said.setting:
            raise ValueError(f"--setting={said.setting[0]} needs --source; ours say it")
    from dit.checkpoint import load

    loaded = load(said.file, said.weights) if source is None else _imported(said, source)
    rows = list(_rows(loaded))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{printable(name):<{width}}  {printable(value)}")


def _import(said: argparse.Namespace) -> None:
    from dit.checkpoint import export_safetensors

    check_out(said.out, ".safetensors")
    export_safetensors(_imported(said, said.source), said.out)
    print(said.out)


def _export(said: argparse.Namespace) -> None:
    if said.to == "safetensors" and said.vae is not None:
        raise ValueError(f"--vae={said.vae} belongs to --to diffusers")
    from dit.checkpoint import export_diffusers, export_safetensors, load

    check_out(said.out)
    loaded = load(said.file, said.weights, key="file")
    if said.to == "diffusers":
        export_diffusers(loaded, said.out, said.vae)
    else:
        export_safetensors(loaded, said.out)
    print(said.out)


def _imported(said: argparse.Namespace, source: str) -> Model:
    from dit.checkpoint import import_loaded

    file = getattr(said, "class_names", None)
    return import_loaded(
        said.file,
        source,
        weights=said.weights,
        num_heads=said.num_heads,
        num_classes=said.num_classes,
        class_tokens_from=said.class_tokens_from,
        class_names=None if file is None else _class_names(file),
        settings=dict(_setting(text) for text in said.setting),
    )


def _setting(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise ValueError(f"--setting={text} must be KEY=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word


def _class_names(file: Path) -> list[str]:
    """One name a line. ValueError, naming the line, for an empty one and for control characters."""
    try:
        lines = file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"--class-names={file} is not UTF-8 text; save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in line):
            raise ValueError(
                f"--class-names={file} must have a name without control characters in line {number}, got {line!a}"
            )
    return lines


def _rows(loaded: Model) -> Iterator[tuple[str, str]]:
    """The table: weights, step and number of parameters, then the metadata, key by key."""
    yield "weights", loaded.weights
    yield "step", f"{loaded.step:,}"
    yield "parameters", f"{sum(p.numel() for p in loaded.network.parameters()):,}"
    yield from _flat("", loaded.metadata.to_dict())


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), entry)
    elif isinstance(value, list | tuple):
        text = ", ".join(map(str, value)) or "none"
        yield prefix, text if len(text) <= _WIDTH else f"{text[:_WIDTH]}... ({len(value)} in all)"
    else:
        yield prefix, str(value)


if __name__ == "__main__":
    sys.exit(main())
