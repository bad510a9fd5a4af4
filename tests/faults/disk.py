"""The disk: full, or not to be written to, while a run trains and before it begins."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.campaign import Campaign, check_good
from tests.faults.runs import STEPS, Run

_libc = ctypes.CDLL(None, use_errno=True)
_SIZE = 4_000_000  # bytes
_NEW_NAMESPACE, _RECURSIVE, _PRIVATE = 0x00020000, 1 << 14, 1 << 18


def full_disks(campaign: Campaign, left: tuple[int, ...]) -> None:
    """`left` bytes stay free when it is filled: none, or too few for a checkpoint."""
    with campaign.kind("a full disk while it trains") as (kind, random):
        for free in left:
            folder = campaign.new(kind)
            try:
                mounted = _mounted(folder.with_name(folder.name + "_disk"))
                disk = mounted.__enter__()
            except OSError as error:
                kind.not_tried = f"cannot mount: {error.strerror}"
                return
            try:
                run = Run(disk / "run")
                step = random.randint(20, STEPS // 2)
                run.until(lambda run=run, step=step: run.board.step >= step, f"until step {step}")
                run.mark()
                _fill(disk / "filler", free)
                run.refuse(f"a disk with {free:,} bytes left", "No space left on device")
                kind.struck(*run.struck)
                check_good(run)
                again = Run(disk / "run")
                code = again.wait("going on with the disk still full")
                if code != 1 or "Traceback" in again.text:
                    kind.wrong.append(f"disk still full: exit code {code}: {again.text.strip()[-300:]}")
                check_good(again)
                (disk / "filler").unlink()
                campaign.end(kind, disk / "run")
            finally:
                mounted.__exit__(None, None, None)


def unwritable(campaign: Campaign) -> None:
    with campaign.kind("a folder that cannot be made") as (kind, _):
        folder = campaign.new(kind)
        folder.touch()
        run = Run(folder / "below")
        run.refuse("hydra.run.dir below a file", f"hydra.run.dir={folder}/below cannot be written: Not a directory")
        folder.unlink()
        folder.mkdir()
        folder.chmod(0o555)
        run = Run(folder, bound=True)
        run.refuse("hydra.run.dir is not ours", f"hydra.run.dir={folder} cannot be written: Permission denied")
        folder.chmod(0o755)
        kind.struck("starting", 0)
        kind.struck("starting", 0)
        campaign.end(kind, folder, forked=True)
    with campaign.kind("a folder that is not ours any more while it trains") as (kind, _):
        for part in ("checkpoints", "previews", "ema", "csv/version_0"):
            run = campaign.begun(kind, at=120, bound=True)
            run.mark()
            (run.folder / part).chmod(0o555)
            if part == "csv/version_0":  # the file itself stays open to writing
                (run.folder / part / "metrics.csv").chmod(0o444)
            run.refuse(part, "Permission denied")
            kind.struck(*run.struck)
            check_good(run)
            (run.folder / part).chmod(0o755)
            (run.folder / "csv/version_0/metrics.csv").chmod(0o644)
            campaign.end(kind, run.folder)


def own_mounts() -> None:
    """From now on what this process mounts is seen by nobody else, and gone when it ends. OSError where it may not."""
    _check(_libc.unshare(_NEW_NAMESPACE))
    _check(_libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None))


@contextmanager
def _mounted(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    own_mounts()
    name = str(folder).encode()
    _check(_libc.mount(b"tmpfs", name, b"tmpfs", 0, f"size={_SIZE}".encode()))
    try:
        yield folder
    finally:
        _check(_libc.umount2(name, 2))  # at once, and for good when nobody uses it


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _fill(file: Path, free: int) -> None:
    """Until as many bytes as `free` are left on its disk."""
    disk = os.statvfs(file.parent)
    with file.open("wb", buffering=0) as out:
        left = disk.f_bavail * disk.f_frsize - free
        while left > 0:
            try:
                left -= out.write(bytes(min(left, 4096)))
            except OSError:
                return
