"""What a data set holds, counted and measured, with all that is wrong with it: one dictionary that JSON can hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.files import ENDINGS, Look, ending, in_threads, look
from data.hidden import is_hidden
from data.inspect.measure import PictureStatistics, Watch, leaks, measure, twins
from data.pictures import Pictures
from data.split import Split
from data.survey import Survey


def examine(data: Pictures, survey: Survey, limit: int | None, watch: Watch[Any]) -> dict[str, Any]:
    """Counts, files, faults, moments and duplicates of both splits.

    Every file is opened; `limit` is of the pictures of each split that are decoded, a fixed random choice. refused in
    the result: why training would not begin, or not end.
    """
    named = {"train": survey.train, "validation": survey.validation}
    measured: dict[str, PictureStatistics] = {}
    refused = list(survey.refused)
    splits = {}
    for name, split in named.items():
        splits[name], measured[name] = _examine(data, split, limit, watch, name)
        refused += _refused(splits[name], name, survey.skips)
    counts = {name: torch.bincount(split.labels, minlength=len(data.class_names)) for name, split in named.items()}
    unreadable = torch.tensor([data.class_names.index(bad["class"]) for bad in splits["train"]["unreadable"]]).long()
    left = counts["train"] - torch.bincount(unreadable, minlength=len(data.class_names))
    for label in ((left == 0) & (counts["train"] > 0)).nonzero().flatten().tolist():
        refused.append(f"no picture of train/{data.class_names[label]} can be read")
    pairs = leaks(measured["train"], measured["validation"])
    names = {name: _names(split) for name, split in named.items()}
    return {
        "data": data.facts | {"module": type(data).__name__, "mirror": data.mirror, "classes": len(data.class_names)},
        "limit": limit,
        "classes": [
            {"name": name, **{split: int(count[label]) for split, count in counts.items()}}
            for label, name in enumerate(data.class_names)
        ],
        "splits": splits,
        "in_both": {
            "pictures": len(pairs),
            "examples": [[names["validation"](a), names["train"](b)] for a, b in pairs[:20]],
        },
        "ignored": {"files": len(survey.ignored), "kinds": _kinds(survey.ignored)},
        "warned": list(survey.warned),
        "refused": refused,
    }


def _examine(
    data: Pictures, split: Split, limit: int | None, watch: Watch[Any], name: str
) -> tuple[dict[str, Any], PictureStatistics]:
    files = split.files()
    looks = [] if files is None else [*watch(in_threads(look, files), len(files), f"opening the files of {name}")]
    faults = {i: seen.fault for i, seen in enumerate(looks) if seen.fault}
    index = [i for i in split.some(limit) if i not in faults]
    measured = measure(data, split, index, watch, f"decoding {name}")
    display = _names(split)
    same = twins(measured, split.labels)
    same["examples"] = [[display(i) for i in group] for group in same["examples"]]
    unreadable = [
        {
            "index": i,
            "file": display(i),
            "class": data.class_names[int(split.labels[i])],
            "reason": reason,
            "when": when,
        }
        for when, reasons in (("opened", faults), ("decoded", measured.faults))
        for i, reason in sorted(reasons.items())
    ]
    report = {
        "pictures": len(split),
        "decoded": len(measured.index),
        "files": None if files is None else _files(files, looks, data.image_size, data.channels),
        "unreadable": unreadable,
        "pixels": measured.pixels.spec,
        "model_space": measured.model.spec,
        "identical": same,
    }
    return report, measured


def _refused(report: dict[str, Any], name: str, skips: bool) -> list[str]:
    """What training says to files that cannot be read: those that only decoding finds end it, also where others are
    left out beforehand."""
    opened, decoded = (sum(bad["when"] == when for bad in report["unreadable"]) for when in ("opened", "decoded"))
    sentences = []
    if opened and not skips:
        sentences.append(
            f"files of {name} that cannot be read: {opened}; remove them, or leave them out with data.on_error=skip"
        )
    if decoded:
        sentences.append(f"files of {name} that have a head and an end but cannot be decoded: {decoded}; remove them")
    return sentences


def _files(files: Sequence[Path], looks: Sequence[Look], image_size: int, channels: int) -> dict[str, Any]:
    """Sizes, formats and modes of the files that can be opened, and how many of them are changed on their way in."""
    intact = [(file, seen) for file, seen in zip(files, looks, strict=True) if seen.fault is None]
    seen = [seen for _, seen in intact]
    grey = [s.mode in ("1", "L", "LA") for s in seen]
    changed = {
        "grey_to_colour": sum(grey) if channels == 3 else 0,
        "colour_to_grey": len(grey) - sum(grey) if channels == 1 else 0,
        "cmyk": sum(s.mode == "CMYK" for s in seen),
        "palette": sum(s.mode in ("P", "PA") for s in seen),
        "transparent_laid_on_white": sum(s.transparent for s in seen),
        "turned_upright": sum(s.turned for s in seen),
        "enlarged": sum(min(s.width, s.height) < image_size for s in seen),
    }
    sides = {side: [getattr(s, side) for s in seen] for side in ("width", "height")}
    largest = max(intact, key=lambda pair: pair[1].width * pair[1].height, default=None)
    misnamed = [str(file) for file, s in intact if not _is_named(file, s.format)]
    return {
        **{side: [int(min(v)), float(np.median(v)), int(max(v))] if v else None for side, v in sides.items()},
        "sizes": [[*size, count] for size, count in Counter((s.width, s.height) for s in seen).most_common(10)],
        "largest": None if largest is None else str(largest[0]),
        "formats": dict(Counter(f"{s.format} {s.mode}" for s in seen).most_common()),
        "changed": changed,
        "misnamed": {"files": len(misnamed), "examples": misnamed[:20]},
    }


def _is_named(file: Path, kind: str) -> bool:
    said = ENDINGS[file.suffix.lower()]
    return kind == said or (kind, said) == ("MPO", "JPEG")  # JPEGs of some phones, with a second picture behind


def _names(split: Split) -> Any:
    files = split.files()
    return (lambda i: f"picture {i}") if files is None else (lambda i: str(files[i]))


def _kinds(files: Sequence[Path]) -> dict[str, int]:
    kinds = ("hidden" if is_hidden(f.name) else ending(f.name) for f in files)
    return dict(Counter(kinds).most_common())
