"""Files: written as a whole or not at all, and read as data."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dit.checks import shown

_SEAL = "seal"
_LARGEST_JSON = 1 << 28  # bytes; the plan of ImageNet's latents has a thousandth of that


@contextmanager
def replaced(file: str | Path, key: str | None = None) -> Iterator[Path]:
    """Yield a name beside `file` to write a file or a folder to, which replaces `file` when the block ends.

    The name cannot be guessed, so nobody can have put a link there, and a link at `file` is replaced, not followed. A
    file reaches the disk before it gets its name. Where the block raises, nothing is left behind.

    key: the setting to blame. Raises ValueError, naming `file` and the reason, if the system refuses to write.
    """
    file = Path(file)
    unfinished = file.with_name(f".{file.name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        yield unfinished
        if unfinished.is_file():
            _sync(unfinished)
        unfinished.replace(file)
        _sync(file.parent)
    except Exception as error:
        if (reason := refusal(error)) is None:
            raise
        said = f"{key}={file}" if key else file
        raise ValueError(f"{said} cannot be written: {reason}") from error
    finally:
        with suppress(OSError):
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            unfinished.unlink(missing_ok=True)


def check_out(out: str | Path, suffix: str | None = None) -> None:
    """Raises ValueError, before any work, if `out` exists already, lies in no folder, or does not end in `suffix`."""
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise ValueError(f"out={out} is there already; give another name")
    if not out.parent.is_dir():
        raise ValueError(f"out={out} cannot be written: {out.parent} is no folder")
    if suffix is not None and out.suffix != suffix:
        raise ValueError(f"out={out} must end in {suffix}")


def given_path(key: str, value: Any) -> Path:
    """The path in the setting `key`, where ~ is the home directory. Raises ValueError for what is no path."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"{key} must be a path, got {shown(value)}")
    return Path(os.path.expanduser(value))


def write_text(file: str | Path, text: str) -> None:
    """Write UTF-8 text. Raises as `replaced` does."""
    with replaced(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(file: str | Path, content: dict[str, Any], sealed: bool = False, allow_nan: bool = False) -> None:
    """Write plain containers as indented JSON; sealed: with a digest of all of it, which `read_json` checks; allow_nan:
    NaN and Infinity too, which only Python reads. Raises as `replaced` does."""
    seal = {_SEAL: _digest(content)} if sealed else {}
    write_text(file, json.dumps({**content, **seal}, indent=2, allow_nan=allow_nan) + "\n")


def read_json(file: str | Path, sealed: bool = False) -> dict[str, Any]:
    """The JSON object in `file`, without its seal. sealed: it must have one, as files of older versions may not.

    Raises ValueError, naming `file`, for what is missing, larger than 256 MiB, nested too deeply, no JSON object, or
    not what was sealed.
    """
    file = Path(file)
    try:
        if (size := file.stat().st_size) > _LARGEST_JSON:
            raise ValueError(f"it has {size:,} bytes, of which at most {_LARGEST_JSON:,} are read")
        return unsealed(parse_json(file.read_bytes()), sealed)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{file} is damaged or not JSON: {error}") from error


def parse_json(text: str | bytes) -> dict[str, Any]:
    """The JSON object that `text` is. Raises ValueError for anything else."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"it must be an object, got a {type(content).__name__}")
    return content


def unsealed(content: dict[str, Any], sealed: bool = False) -> dict[str, Any]:
    """`content` without its seal. sealed: it must have one. Raises ValueError if it is not what was sealed."""
    seal, content = content.get(_SEAL), {key: value for key, value in content.items() if key != _SEAL}
    if seal is None and sealed:
        raise ValueError("it has no seal")
    if seal not in (None, _digest(content)):
        raise ValueError("it is not what was written; if you changed it yourself, remove its seal")
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def refusal(error: BaseException | None) -> str | None:
    """What the system said when it refused to write; None for an error of another origin. Writers of torch and
    safetensors raise errors of their own after the system said why."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if type(error).__name__ == "SafetensorError":
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _sync(path: Path) -> None:
    """Onto the disk: what is in a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(descriptor)
