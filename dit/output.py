"""WHAT IS WRITTEN: samples as a contact sheet, single PNGs or an npz, the protocol as JSON beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from dit.files import replaced, write_json

SHEET, PROTOCOL, SAMPLES = "grid.png", "samples.json", "samples.npz"  # of a folder of samples


def contact_sheet(images: Tensor, columns: int) -> Tensor:
    """uint8 [N, C, H, W] -> one uint8 picture [3 or 1, H', W'], `columns` images a row.

    Small images are enlarged by a whole factor to at least 48 pixels, so that a person can see them.
    """
    factor = max(1, -(-48 // images.shape[-1]))
    large = images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    return make_grid(large, nrow=columns, padding=2, pad_value=255).to(torch.uint8)


def write_sheet(file: Path, images: Tensor, columns: int = 10) -> None:
    """A contact sheet of uint8 images [N, C, H, W], for people."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _write_png(file, contact_sheet(images, columns))


def _write_png(file: Path, image: Tensor) -> None:
    with replaced(file) as unfinished:
        to_pil_image(image).save(unfinished, format="PNG")


def check_out(out: Path) -> None:
    """ValueError where `out` is a file or already holds samples, which would mix with the new ones."""
    if out.is_file() or (out / PROTOCOL).exists():
        raise ValueError(f"out={out} already holds samples or is a file; give another folder")


def write_samples(
    out: Path,
    images: Tensor,
    labels: Sequence[int] | None,
    columns: int,
    protocol: dict[str, Any],
    form: Literal["png", "npz"] = "png",
) -> list[Path]:
    """Write grid.png and samples.json, and the images as PNGs or as samples.npz, into `out`; return what was written.

    images: uint8 [N, C, H, W]; labels: N, or None without classes. npz holds `arr_0` (uint8 NHWC) and `arr_1` (labels),
    as the ADM evaluation suite reads it. PNGs are named by index and class, as 00000_cat.png; of the protocol the
    labels and class_names are read. Raises ValueError where `out` holds samples already or cannot be written.
    """
    check_out(out)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / SHEET]
    write_sheet(written[0], images, columns)
    if form == "npz":
        written.append(out / SAMPLES)
        arrays = [images.permute(0, 2, 3, 1).numpy()]
        arrays += [] if labels is None else [np.asarray(labels, dtype=np.int64)]
        with replaced(written[-1]) as unfinished, unfinished.open("wb") as opened:
            np.savez(opened, *arrays)
    else:
        endings = [""] * len(images) if labels is None else [f"_{_word(protocol, label)}" for label in labels]
        for index, (image, ending) in enumerate(zip(images, endings, strict=True)):
            written.append(out / f"{index:05d}{ending}.png")
            _write_png(written[-1], image)
    # Last, so that its presence says that all the rest is there.
    written.append(out / PROTOCOL)
    write_json(written[-1], protocol)
    return written


def _word(protocol: Mapping[str, Any], label: int) -> str:
    """The name of a class as part of a file's name: letters and digits of any script."""
    names = protocol["class_names"] or {}
    name = re.sub(r"[^\w-]+", "_", names[label]).strip("_")[:40] if label in range(len(names)) else ""
    return name or f"class{label}"
