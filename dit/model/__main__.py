"""The presets of configs/model, counted: `python -m dit.model` prints parameters and GFLOPs of each, and with `--batch`
what training takes of a GPU's memory."""

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
    parser.add_argument("names", nargs="*", help="presets; default: all")
    parser.add_argument("--patch-size", type=int, help="default: the preset's")
    parser.add_argument("--batch", type=int, help="pictures on a GPU: adds the GiB of training in bf16-mixed, computed")
    parser.add_argument("--rate", type=float, help="images a second: adds the hours of a million images")
    changes = {key: value for key, value in vars(parser.parse_args(given)).items() if value is not None}
    batch, rate, names = (changes.pop(key, None) for key in ("batch", "rate", "names"))
    for key, value in {"batch": batch, "rate": rate}.items():
        if value is not None and value <= 0:
            sys.exit(f"error: --{key} must be positive, got {value}")
    say_loading()
    from dit.model.count import count

    try:
        known = presets()
    except (ImportError, FileNotFoundError) as error:
        sys.exit(f"error: the presets are read from configs/ of a clone, by PyYAML of 'ditlab[train]' ({error})")
    for name in names:
        if name not in known:
            sys.exit(f"error: no preset is called {name}; there are {', '.join(known)}")
    rows = {name: known[name] | changes for name in names or known}
    head = f"{'model':<18}{'picture':<16}{'patch':>5}{'tokens':>8}{'parameters':>13}{'GFLOPs':>9}"
    head += f"{'GiB':>9}{'recomputed':>12}{'sharded by 8':>14}" if batch else ""
    lines = [head + (f"{'h/million':>11}" if rate else "")]
    for name, options in rows.items():
        try:
            parameters, gflops = count({"name": "dit", **options})
        except ValueError as error:
            sys.exit(f"error: {name}: {error}")
        side, patch = options["image_size"], options["patch_size"]
        picture, tokens = f"{side} x {side} x {options['channels']}", (side // patch) ** 2
        line = f"{name:<18}{picture:<16}{patch:>5}{tokens:>8,}{parameters / 1e6:>11,.1f} M{gflops:>9,.2f}"
        line += _memory({"name": "dit", **options}, batch) if batch else ""
        lines.append(line + (f"{1e6 / rate / 3600:>11,.1f}" if rate else ""))
    print(*lines, sep="\n")


def _memory(spec: dict[str, Any], batch: int) -> str:
    """GiB of a step: as it is, with every block recomputed, and with the state shared by eight GPUs."""
    from dit.model.memory import training_memory

    plain, recomputed = training_memory(spec), training_memory(spec, activation_checkpointing=1)
    sizes = [each.state + each.fixed + batch * each.picture for each in (plain, recomputed)]
    sizes.append(sizes[0] - plain.state * 7 // 8)
    return "".join(f"{size / 2**30:>{width}.1f}" for size, width in zip(sizes, (9, 12, 14), strict=True))


if __name__ == "__main__":
    main()
