"""The secret with which a job is signed on its way through a network: given in the environment, or kept in a file."""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
from pathlib import Path

VARIABLE = "DITLAB_JOB_SECRET"
_LEAST = 16  # characters


def job_secret() -> bytes:
    """DITLAB_JOB_SECRET, or else a random one in ~/.local/state/ditlab/job_secret (XDG_STATE_HOME), made by whoever
    asks first.

    Raises ValueError if the file cannot be made, or if others than the user may read or write it.
    """
    if given := os.environ.get(VARIABLE):
        if len(given) < _LEAST:
            raise ValueError(f"{VARIABLE} must have at least {_LEAST} characters, as openssl rand -hex 32 gives them")
        return given.encode()
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        file = Path(state) / "ditlab" / "job_secret"
        if not file.exists():
            _make(file)
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb") as opened:
            status, content = os.fstat(descriptor), opened.read()
    except (OSError, RuntimeError) as error:  # no home, or none that can be written
        raise ValueError(f"the secret of the job cannot be kept ({error}): set {VARIABLE} to a random text") from error
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or len(content) < _LEAST:
        raise ValueError(f"{file} must belong to you and have mode 600; delete it, or set {VARIABLE} to a random text")
    return content


def secret_port(secret: bytes, name: str) -> int:
    """A port for the job `name` that all its processes agree on and nobody else foresees, below those that systems
    give to outgoing connections."""
    number = hmac.digest(secret, f"port of {name}".encode(), "sha256")
    return 15_000 + int.from_bytes(number[:8], "big") % 10_000


def _make(file: Path) -> None:
    """Whole under its name or not there, whoever else makes it at the same time."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent)  # mode 600
    try:
        with open(descriptor, "wb") as opened:
            opened.write(secrets.token_hex(32).encode())
        os.link(temporary, file)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)
