"""Arrays of a cache on disk: npy files whose header is compared with the one that is expected, and never parsed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from dit.checks import printable
from dit.files import replaced

_LONGEST_HEADER = 4096  # bytes; numpy's have 128


def array_bytes(values: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def checksum(content: Any) -> str:
    """16 digits of a hash of bytes."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def write(file: Path, content: bytes) -> None:
    """As a whole or not at all. Raises ValueError as `replaced` does."""
    with replaced(file) as unfinished:
        unfinished.write_bytes(content)


def fits_size(file: Path, dtype: str, shape: Sequence[int]) -> bool:
    """Whether the length of a file is that of such an array and a header."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return size < file.stat().st_size <= size + _LONGEST_HEADER


def array_in(content: np.ndarray, dtype: str, shape: Sequence[int]) -> np.ndarray | None:
    """The array in a file's bytes [n] uint8, without a copy; None if its header is not that of such an array."""
    kind = np.dtype(dtype)
    start = len(content) - math.prod(shape) * kind.itemsize
    if not 10 < start <= _LONGEST_HEADER:
        return None
    said = f"{{'descr': '{kind.str}', 'fortran_order': False, 'shape': {tuple(shape)}, }}".encode()
    header = b"\x93NUMPY\x01\x00" + (start - 10).to_bytes(2, "little") + said.ljust(start - 11) + b"\n"
    return np.ndarray(shape, kind, content.data, start) if content[:start].tobytes() == header else None


def read_array(file: Path, dtype: str, shape: Sequence[int], digest: str, cure: str) -> np.ndarray:
    """The array in a file of the checksum `digest`. Raises ValueError, ending with `cure`, for any other file."""
    state, values = "missing", None
    try:
        if file.is_file():
            state = "damaged: its checksum is another"
            if fits_size(file, dtype, shape) and checksum(content := file.read_bytes()) == digest:
                values = array_in(np.frombuffer(content, np.uint8), dtype, shape)
    except OSError as error:
        state = f"not readable: {error.strerror or error}"
    if values is None:
        raise ValueError(f"{printable(str(file))} is {state}; {cure}")
    return values
