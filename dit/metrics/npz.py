"""The .npz files of the ADM evaluation suite: batches of images, and moments of a reference."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dit.checks import printable
from dit.files import replaced
from dit.metrics.cache import kept
from dit.metrics.features import Extractor, check_pictures, extract
from dit.metrics.moments import Gaussian
from dit.metrics.reference import Reference

IMAGES, LABELS, MOMENTS, SPATIAL = "arr_0", "arr_1", ("mu", "sigma"), ("mu_s", "sigma_s")


_LARGEST = 1 << 28  # bytes of one picture
_AT_ONCE = 1 << 28  # bytes of one batch
_LARGEST_ARRAY = 1 << 31  # bytes of labels or moments: twice those of 11,000 features
_MOST_PACKED = 200  # bytes out of one in the file, above a size that does no harm; pictures have up to 20
_HARMLESS = 1 << 24


@dataclass(frozen=True)
class NpzImages:
    """`arr_0`, uint8 [N, H, W, C], of which one batch at a time is in memory; shape: (C, H, W)."""

    file: Path
    count: int
    shape: tuple[int, int, int]

    @staticmethod
    def open(file: Path) -> NpzImages:
        """Raises ValueError for a file without such images, or with fewer bytes of them than it says."""
        if IMAGES not in npz_keys(file):
            raise ValueError(f"{file} holds no images: {IMAGES}, uint8 [N, H, W, C], is wanted")
        with _opened(file, IMAGES) as (_, header):
            shape, dtype = header.shape, header.dtype
            if dtype != np.uint8 or len(shape) != 4 or header.fortran:
                mixed = " (pictures of mixed sizes?)" if dtype.hasobject else ""
                order = " in Fortran order" if header.fortran else ""
                raise ValueError(
                    f"{IMAGES} of {file} must be uint8 [N, H, W, C], got {dtype} {list(shape)}{order}{mixed}"
                )
            count, height, width, channels = shape
            if channels not in (1, 3):
                raise ValueError(f"{IMAGES} of {file} must have 1 or 3 channels, got {channels} (shape {list(shape)})")
            if height * width * channels > _LARGEST:
                raise ValueError(f"{IMAGES} of {file} has pictures of {height}x{width}, which are too large")
            _check_size(file, IMAGES, header)
        return NpzImages(file, count, (channels, height, width))

    @property
    def labels(self) -> Tensor | None:
        """`arr_1` [N], int64, or None."""
        if LABELS not in npz_keys(self.file):
            return None
        with _opened(self.file, LABELS) as (_, header):
            if header.shape != (self.count,) or header.dtype.kind not in "iu":
                kind = f"{header.dtype} {list(header.shape)}"
                raise ValueError(f"{LABELS} of {self.file} must be {self.count} integers, one an image, got {kind}")
        return torch.from_numpy(_array(self.file, LABELS).astype(np.int64))

    def batches(self, batch_size: int = 64) -> Iterator[Tensor]:
        """uint8 [B, C, H, W]; smaller batches of very large images. Raises ValueError at the first constant image, and
        where the file is damaged."""
        channels, height, width = self.shape
        size = height * width * channels
        batch_size = max(1, min(batch_size, _AT_ONCE // max(1, size)))
        with _opened(self.file, IMAGES) as (member, _):
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

    def make() -> Reference:
        return Reference.of(extract(extractor, NpzImages.open(file).batches(batch_size)), file.name, digest)

    name = f"reference-{digest}.safetensors"
    of_images = make() if cache is None else kept(cache / name, Reference.load, make, Reference.save)
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
    with replaced(file) as unfinished, unfinished.open("wb") as opened:
        np.savez(opened, **arrays)


def npz_keys(file: Path) -> set[str]:
    """The names of its arrays. ValueError for a file that is none, and for names that the suite does not know."""
    try:
        with zipfile.ZipFile(file) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception as reason:  # whatever `zipfile` raises; it does not say
        raise ValueError(f"{file} cannot be read as .npz: {reason}") from reason
    allowed = (IMAGES, LABELS, *MOMENTS, *SPATIAL)
    if keys - set(allowed):
        raise ValueError(
            f"{file} holds {printable(', '.join(sorted(keys - set(allowed)))[:120])}, "
            f"but only {', '.join(allowed)} are read"
        )
    return keys


def _gaussian(file: Path, names: tuple[str, str]) -> Gaussian:
    keys = npz_keys(file)
    if missing := [name for name in names if name not in keys]:
        raise ValueError(f"{file} holds one of {' and '.join(names)} and lacks {missing[0]}: moments need both")
    mean, covariance = (torch.from_numpy(_array(file, name).astype(np.float64)) for name in names)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise ValueError(f"{' and '.join(names)} of {file} must be [F] and [F, F], got {shapes}")
    for name, part in zip(names, (mean, covariance), strict=True):
        if not part.isfinite().all():
            raise ValueError(f"{name} of {file} must be finite, but holds NaN or infinity")
    return Gaussian(mean, covariance)


class _Header(NamedTuple):
    """What an array says of itself; bytes: of the array, as the archive has it; packed: of those in the file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    bytes: int
    packed: int


@contextmanager
def _opened(file: Path, name: str) -> Iterator[tuple[IO[bytes], _Header]]:
    """The array `name` of a .npz, at its first byte. Raises ValueError, naming `file`, where it is damaged."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as member:
            info = archive.getinfo(f"{name}.npy")
            try:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0
                shape, fortran, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(member)
            except ValueError as error:
                raise ValueError(f"{name} of {file} is damaged or no array: {error}") from error
            yield member, _Header(shape, fortran, dtype, info.file_size - member.tell(), info.compress_size)
    except ValueError:
        raise
    except Exception as error:  # whatever `zipfile` and what it unpacks with raise; they do not say
        raise ValueError(f"{file} is damaged: {error or type(error).__name__}") from error


def _check_size(file: Path, name: str, header: _Header) -> None:
    """ValueError where the archive holds other bytes than the header says, or unpacks to far more than it is.
    So images are read to the end of the array, where `zipfile` checks its CRC."""
    wanted = math.prod(header.shape) * header.dtype.itemsize
    if min(header.shape, default=0) < 0 or header.bytes != wanted:
        raise ValueError(
            f"{name} of {file} is damaged: {list(header.shape)} {header.dtype} are {wanted:,} bytes, and it holds "
            f"{header.bytes:,}"
        )
    if header.bytes > max(_HARMLESS, _MOST_PACKED * header.packed):
        raise ValueError(f"{name} of {file} would unpack {header.packed:,} bytes to {header.bytes:,}, which is refused")


def _array(file: Path, name: str) -> np.ndarray:
    """A whole array of numbers. Raises ValueError for anything else."""
    with _opened(file, name) as (member, header):
        if header.dtype.kind not in "biuf":
            raise ValueError(f"{name} of {file} must be numbers, got {header.dtype}")
        if header.bytes > _LARGEST_ARRAY:
            raise ValueError(
                f"{name} of {file} has {header.bytes:,} bytes, of which at most {_LARGEST_ARRAY:,} are read"
            )
        _check_size(file, name, header)
        content = member.read()
    if len(content) != header.bytes:
        raise ValueError(f"{name} of {file} is damaged: it holds {len(content):,} bytes of {header.bytes:,}")
    return np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
