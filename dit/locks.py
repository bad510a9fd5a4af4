"""LOCKS on files: one process at a time. However a process ends, the system gives its locks free."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

_WITHOUT = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # a file system that has no locks


def hold(file: Path, wait: bool = False, of_process: bool = False) -> IO[str]:
    """The open `file`, made where it is missing, whose lock nobody else has until it is closed. A file system without
    locks gives none.

    wait: until it is free. of_process: processes that this one starts do not share the lock.

    Raises BlockingIOError where another process has it, and OSError where the file cannot be opened, as a link.
    """
    opened = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
    try:
        lock_descriptor(opened.fileno(), wait, of_process)
    except BaseException:
        opened.close()
        raise
    return opened


def lock_descriptor(descriptor: int, wait: bool, of_process: bool) -> None:
    """Locks what is open. Raises as `hold`."""
    lock = fcntl.lockf if of_process else fcntl.flock
    try:
        lock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except PermissionError as error:  # what some systems say of a lock that another process has
        raise BlockingIOError(error.errno, error.strerror) from error
    except OSError as error:
        if error.errno not in _WITHOUT:
            raise


def is_held(file: Path) -> bool:
    """Whether a process holds `file` with `hold`, which is not made. A link is not followed."""
    try:
        if file.is_symlink() or not file.is_file():
            return False
        with file.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
