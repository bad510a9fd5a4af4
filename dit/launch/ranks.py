"""The processes of one job on this machine: started with torchrun's environment, watched, and ended together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

from dit.launch.collectives import LOOPBACK, hosted_store
from dit.launch.group import HANDED
from dit.launch.handover import InheritedFile

GRACE = 15.0  # seconds between asking the ranks beside a broken one to end and making them
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Ranks:
    """`size` processes of `command`, each handed the packed job in a file that it inherits. This process also hosts the
    store through which torch.distributed finds its peers.

    They lead process groups of their own, so that a terminal's Ctrl-C reaches them once, through here; when this
    process dies, by whatever signal, the kernel kills them. environment: on top of this process's; output: where they
    write, by default where this process does.
    """

    def __init__(
        self,
        command: Sequence[str],
        job: bytes,
        size: int,
        environment: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
    ):
        self._store, self._handed = hosted_store(), InheritedFile.of(job)
        self._said: dict[str, Any] | None = None  # by the ranks, once all have ended
        self._broken: tuple[int, int] | None = None  # the first rank that failed, and its code
        self._deadline = 0.0
        shared = {
            "OMP_NUM_THREADS": str(max(1, cores() // size)),  # the user's own wins
            **os.environ,
            **(environment or {}),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "GROUP_WORLD_SIZE": "1",
            "GROUP_RANK": "0",
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(self._store.port),
            HANDED: str(self._handed.descriptor),
            # With these, torch and Lightning know that processes and store are there.
            "TORCHELASTIC_RUN_ID": f"dit-{os.getpid()}",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "0",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        self.processes = [
            subprocess.Popen(
                command,
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[self._handed.descriptor],
                process_group=0,
                preexec_fn=partial(_die_with, os.getpid()),
            )
            for rank in range(size)
        ]

    def poll(self) -> int | None:
        """The exit code of the job, as a shell gives it, or None while a rank runs. To be called every so often: it is
        what ends the others when one has failed."""
        codes = [process.poll() for process in self.processes]
        failed = [(rank, code) for rank, code in enumerate(codes) if code]
        if failed and self._broken is None:
            # One that a signal ended comes first: others fail because of it, until they are asked to end.
            self._broken = min(failed, key=lambda pair: pair[1] > 0)
            self._deadline = time.monotonic() + GRACE
            self.send(signal.SIGTERM)
        if None not in codes:
            if self._said is None:
                self._said = self._handed.said()
                self._handed.close()
            code = self._broken[1] if self._broken else 0
            return 128 - code if code < 0 else code
        if self._broken is not None and time.monotonic() > self._deadline:
            self.send(signal.SIGKILL)  # in a collective whose other side is gone
        return None

    def send(self, number: int) -> None:
        for process in self.processes:
            process.send_signal(number)  # of a process that has ended: nothing

    @property
    def value(self) -> Any:
        """What the job returned, once it is over; None too if it returned nothing."""
        return (self._said or {}).get("value")

    @property
    def finished(self) -> bool:
        """Whether rank 0 came to the end of the job, rather than leaving early with exit code 0."""
        return "value" in (self._said or {})

    @property
    def error(self) -> str | None:
        """The sentence of the first rank that failed; None where it could not say any, and others only followed."""
        if self._broken is not None and self._broken[1] < 0:
            return None
        return (self._said or {}).get("error")

    @property
    def death(self) -> str:
        """How the ranks ended, where none could say it."""
        if self._broken is None:
            return "ended before it was through"
        rank, code = self._broken
        return f"rank {rank} was ended by {signal.Signals(-code).name}" if code < 0 else f"rank {rank} left with {code}"


def wait(ranks: Ranks) -> int:
    """Until the job is over; its exit code. Signals go to the ranks; a second Ctrl-C kills them."""
    with forwarding([ranks]):
        while (code := ranks.poll()) is None:
            time.sleep(0.05)
    return code


@contextmanager
def forwarding(running: list[Ranks]) -> Iterator[list[int]]:
    """Inside, signals to this process go to the ranks in `running` instead, and are noted in the list it gives."""
    noted: list[int] = []

    def forward(number: int, frame: Any) -> None:
        again = number == signal.SIGINT and number in noted
        noted.append(number)
        for ranks in running:
            ranks.send(signal.SIGKILL if again else number)

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    # What is ignored stays so: nohup.
    heard = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heard}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _die_with(parent: int) -> None:
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # which died before that
            os._exit(128 + signal.SIGKILL)
