"""The presets of configs/model, counted: `python -m dit.model` prints parameters and GFLOPs of each."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dit.lazy import say_loading

CONFIGS = Path(__file__).parents[2] / "configs"


def presets() -> dict[str, dict[str, Any]]:
    """Constructor arguments of each preset for the pictures it was made for, family by family."""
    import yaml  # with hydra-core

    from dit.model import DiT

    def read(name: str) -> dict[str, Any]:
        own = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text())
        inherited = {key: value for base in own.pop("defaults", []) for key, value in read(base).items()}
        return inherited | own

    found = {}
    published = yaml.safe_load((CONFIGS / "published.yaml").read_text())
    for key, pictures in published.items():
        files = (CONFIGS / "model").glob(f"{key}.yaml" if "_" in key else f"{key}_*.yaml")
        family = {file.stem: read(file.stem) | pictures for file in files if file.stem not in found}
        found |= dict(sorted(family.items(), key=lambda item: item[1]["hidden_size"]))
    for options in found.values():
        for key in ("_target_", "augment_dim", *DiT.RUN_ARGUMENTS):  # which the data or a run tell
            options.pop(key, None)
    return found


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dit.model", description=__doc__)
    for option, meaning in (("--image-size", "a side"), ("--channels", "of a picture"), ("--num-classes", "real ones")):
        parser.add_argument(option, type=int, help=f"{meaning}; default: what the preset was made for")
    parser.add_argument("--patch-size", type=int, help="default: the preset's")
    changes = {key: value for key, value in vars(parser.parse_args(given)).items() if value is not None}
    say_loading()
    from dit.model.count import count

    try:
        rows = {name: preset | changes for name, preset in presets().items()}
    except (ImportError, FileNotFoundError) as error:
        sys.exit(f"error: the presets are read from configs/ of a clone, by PyYAML of 'ditlab[train]' ({error})")
    lines = [f"{'model':<18}{'picture':<16}{'patch':>5}{'tokens':>8}{'parameters':>13}{'GFLOPs':>9}"]
    for name, options in rows.items():
        try:
            parameters, gflops = count({"name": "dit", **options})
        except ValueError as error:
            sys.exit(f"error: {name}: {error}")
        side, patch = options["image_size"], options["patch_size"]
        picture, tokens = f"{side} x {side} x {options['channels']}", (side // patch) ** 2
        lines.append(f"{name:<18}{picture:<16}{patch:>5}{tokens:>8,}{parameters / 1e6:>11,.1f} M{gflops:>9,.2f}")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
