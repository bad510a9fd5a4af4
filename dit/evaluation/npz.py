"""The .npz files of the ADM evaluation suite: batches of images, and moments of a reference."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dit.evaluation.features import Extractor, check_pictures, extract
from dit.evaluation.moments import Gaussian
from dit.evaluation.reference import Reference

IMAGES, LABELS, MOMENTS, SPATIAL = "arr_0", "arr_1", ("mu", "sigma"), ("mu_s", "sigma_s")


@dataclass(frozen=True)
class NpzImages:
    """`arr_0`, uint8 [N, H, W, C], of which one batch at a time is in memory; shape: (C, H, W)."""

    file: Path
    count: int
    shape: tuple[int, int, int]

    @staticmethod
    def open(file: Path) -> NpzImages:
        """Raises ValueError for a file without such images."""
        if IMAGES not in npz_keys(file):
            raise ValueError(f"{file} holds no images: {IMAGES}, uint8 [N, H, W, C], is wanted")
        with zipfile.ZipFile(file) as archive, archive.open(f"{IMAGES}.npy") as member:
            shape, fortran, dtype = _header(member)
        if dtype != np.uint8 or len(shape) != 4 or fortran:
            mixed = " (pictures of mixed sizes?)" if dtype.hasobject else ""
            order = " in Fortran order" if fortran else ""
            raise ValueError(f"{IMAGES} of {file} must be uint8 [N, H, W, C], got {dtype} {list(shape)}{order}{mixed}")
        count, height, width, channels = shape
        if channels not in (1, 3):
            raise ValueError(f"{IMAGES} of {file} must have 1 or 3 channels, got {channels} (shape {list(shape)})")
        return NpzImages(file, count, (channels, height, width))

    @property
    def labels(self) -> Tensor | None:
        """`arr_1` [N], int64, or None."""
        if LABELS not in npz_keys(self.file):
            return None
        with np.load(self.file) as arrays:
            labels = arrays[LABELS]
        if labels.shape != (self.count,) or labels.dtype.kind not in "iu":
            kind = f"{labels.dtype} {list(labels.shape)}"
            raise ValueError(f"{LABELS} of {self.file} must be {self.count} integers, one an image, got {kind}")
        return torch.from_numpy(labels.astype(np.int64))

    def batches(self, batch_size: int = 64) -> Iterator[Tensor]:
        """uint8 [B, C, H, W]. Raises ValueError at the first constant image."""
        channels, height, width = self.shape
        size = height * width * channels
        with zipfile.ZipFile(self.file) as archive, archive.open(f"{IMAGES}.npy") as member:
            _header(member)
            for begin in range(0, self.count, batch_size):
                wanted = min(batch_size, self.count - begin)
                content = bytearray(member.read(wanted * size))
                if len(content) < wanted * size:
                    raise ValueError(f"{self.file} ends at image {begin + len(content) // size} of {self.count}")
                pixels = torch.frombuffer(content, dtype=torch.uint8).view(wanted, height, width, channels)
                images = pixels.permute(0, 3, 1, 2).contiguous()  # [B, C, H, W]
                check_pictures(images, str(self.file), begin)
                yield images


def read_reference(file: Path, extractor: Extractor, batch_size: int = 64, cache: Path | None = None) -> Reference:
    """Of a .npz with moments, images, or both. With both, the moments are those in the file, as the suite has it: they
    are of more pictures than the images, which serve the scores that need features. cache: where what is computed of
    images is kept for the next time.

    Moments do not say which network they are of: that they fit `extractor` is the user's word, but for their width.
    Raises ValueError for other keys, and for moments that are none.
    """
    keys = npz_keys(file)
    moments, spatial = (_gaussian(file, pair) if set(pair) & keys else None for pair in (MOMENTS, SPATIAL))
    if moments is None and IMAGES not in keys:
        raise ValueError(f"{file} holds neither {IMAGES} nor mu and sigma, got {', '.join(sorted(keys)) or 'nothing'}")
    content = hashlib.sha256(f"{extractor.name} {extractor.digest}".encode())
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            content.update(part)
    digest = content.hexdigest()[:12]
    if IMAGES not in keys:
        assert moments is not None
        return Reference(file.name, digest, moments, spatial)
    kept = None if cache is None else cache / f"reference-{digest}.safetensors"
    if kept is not None and kept.is_file():
        of_images = Reference.load(kept)
    else:
        of_images = Reference.of(extract(extractor, NpzImages.open(file).batches(batch_size)), file.name, digest)
        if kept is not None:
            of_images.save(kept)
    if moments is None:
        return of_images
    if len(moments.mean) != len(of_images.moments.mean):
        raise ValueError(
            f"mu of {file} has {len(moments.mean)} features, but {extractor.name} has {len(of_images.moments.mean)}"
        )
    return Reference(file.name, digest, moments, spatial, of_images.pooled)


def write_moments(file: Path, reference: Reference) -> None:
    """mu and sigma, and mu_s and sigma_s where known, float64, as the suite reads them; whole or not at all."""
    arrays = {}
    for names, gaussian in ((MOMENTS, reference.moments), (SPATIAL, reference.spatial_moments)):
        if gaussian is not None:
            arrays |= dict(zip(names, (gaussian.mean.numpy(), gaussian.covariance.numpy()), strict=True))
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as opened:
        np.savez(opened, **arrays)
    temporary.replace(file)


def npz_keys(file: Path) -> set[str]:
    """The names of its arrays. ValueError for a file that is none, and for names that the suite does not know."""
    try:
        with zipfile.ZipFile(file) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as reason:
        raise ValueError(f"{file} cannot be read as .npz: {reason}") from reason
    allowed = (IMAGES, LABELS, *MOMENTS, *SPATIAL)
    if keys - set(allowed):
        raise ValueError(
            f"{file} holds {', '.join(sorted(keys - set(allowed)))}, but only {', '.join(allowed)} are read"
        )
    return keys


def _gaussian(file: Path, names: tuple[str, str]) -> Gaussian:
    with np.load(file) as arrays:
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ValueError(f"{file} holds one of {' and '.join(names)} and lacks {missing[0]}: moments need both")
        try:
            mean, covariance = (torch.from_numpy(arrays[name].astype(np.float64)) for name in names)
        except ValueError as reason:
            raise ValueError(f"{' and '.join(names)} of {file} must be numbers: {reason}") from reason
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise ValueError(f"{' and '.join(names)} of {file} must be [F] and [F, F], got {shapes}")
    for name, part in zip(names, (mean, covariance), strict=True):
        if not part.isfinite().all():
            raise ValueError(f"{name} of {file} must be finite, but holds NaN or infinity")
    return Gaussian(mean, covariance)


def _header(member) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)
