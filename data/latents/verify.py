"""Checking a cache: every byte, every number finite, and some latents decoded beside the pictures they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from data.latents import manifest
from data.latents.encode import make_plan
from data.latents.manifest import Manifest
from data.latents.module import CachedSplit
from data.order import Pick
from data.pictures import Pictures
from dit.checks import printable
from dit.codec import Autoencoder
from dit.files import replaced


def verify(root: Path, data: Pictures, autoencoder: Autoencoder, shown: int, device: torch.device) -> tuple[str, Path]:
    """What was found, and the PNG: rows of `shown` training pictures, decoded, mirrored, and mirrored decoded.

    data: the pictures of the cache, after `setup`. Raises ValueError for the first thing that is wrong: a file that is
    missing, damaged or of other numbers, other pictures or another autoencoder.
    """
    made = Manifest.read(root)
    if different := make_plan(data, autoencoder, made.plan.dtype, made.plan.shard_size).differences(made.plan):
        raise ValueError(f"verify={printable(str(root))} is a cache of something else: {'; '.join(different)}")
    for shard, entry in made.files():
        if not np.isfinite(manifest.read_shard(root, made.plan, shard, entry["checksum"])).all():
            raise ValueError(
                f"the shard {entry['file']} of verify={printable(str(root))} has numbers that are not finite"
            )
    for name in manifest.SPLITS:
        CachedSplit(root, made, name)  # labels and CRC-32s
    originals, decoded = _pairs(root, made, data, autoencoder, shown, device)
    error = (originals.double() - decoded.double()).square().mean((1, 2, 3))  # [2 shown]
    ratio = float((10 * torch.log10(255**2 / error.clamp(min=1e-9))).mean())
    rows = torch.cat([row for pair in zip(originals.chunk(2), decoded.chunk(2), strict=True) for row in pair])
    enlarged = max(1, 96 // rows.shape[-1])
    rows = rows.repeat_interleave(enlarged, dim=-1).repeat_interleave(enlarged, dim=-2)
    picture = root / "verify.png"
    try:
        with replaced(picture) as unfinished:
            grid = make_grid(rows, nrow=originals.shape[0] // 2, padding=2, pad_value=255)
            to_pil_image(grid).save(unfinished, "PNG")
    except ValueError as error:
        raise ValueError(f"all is right, but {error}") from error
    files, count = len(made.shards), sum(made.plan.counts.values())
    return (
        f"{files} shards of {count:,} pictures and their mirror images: all there, checksums match, all finite; "
        f"{originals.shape[0]} decoded at {ratio:.1f} dB PSNR on average"
    ), picture


def _pairs(
    root: Path, made: Manifest, data: Pictures, autoencoder: Autoencoder, shown: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pictures and mirror images uint8 [2 shown, C, H, W], and the same from their latents."""
    assert data.train is not None
    cached = CachedSplit(root, made, "train")
    some = data.train.some(shown)
    picks = [Pick(index, mirrored) for mirrored in (False, True) for index in some]
    decoded = torch.cat([autoencoder.decode(cached.images([pick]).to(device)).cpu() for pick in picks])
    return data.train.images(picks), decoded
