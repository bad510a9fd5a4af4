"""One start of train.py: watched, struck and waited for, and never for longer than a minute without progress."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.phases import Board, Strike
from tests.forked import become

ROOT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds; nothing may stand still for longer
STEPS = 400
SETTINGS: dict[str, object] = {
    "experiment": "digits",
    "ema": "power",
    "trainer": "cpu",
    "model.hidden_size": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "data.batch_size": 8,
    "data.validation_images": 16,
    "trainer.max_steps": STEPS,
    "trainer.log_every_n_steps": 5,
    "validate_every": 50,
    "steps": 2,
    "lr_schedule.warmup": 5,
    "callbacks.preview.every_n_steps": 100,
    "callbacks.snapshots.every_n_steps": 100,
    "callbacks.checkpoint.every_n_steps": 10,
}
_libc = ctypes.CDLL(None)


class Failure(Exception):
    """What should not have happened, in one sentence."""


class Run:
    """The command, begun once more in `folder`.

    forked: in a copy of this process, which has imported everything and shows what it does, instead of a fresh one.
    strike: where it is to kill itself. bound: whether permissions hold for it, though it may be root's.
    """

    def __init__(
        self, folder: Path, *more: str, forked: bool = True, strike: Strike | None = None, bound: bool = False
    ):
        assert forked or not (strike or bound)
        self.folder, self.board, self.begun = folder, Board(), time.monotonic()
        self.struck = "", 0  # the phase and the step in which it was
        self._code: int | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, not on a disk that is filled
        settings = {**SETTINGS, "hydra.run.dir": folder}
        arguments = ["train.py", *(f"{key}={value}" for key, value in settings.items()), *more]
        self.pid = os.fork()
        if self.pid == 0:
            self._prepare()
            if not forked:
                os.execv(sys.executable, [sys.executable, *arguments])
            become(lambda: self._train(arguments, strike, bound))

    def _train(self, arguments: list[str], strike: Strike | None, bound: bool) -> None:
        sys.argv = arguments
        if bound:
            _be_bound()
        self.board.follow()
        if strike is not None:
            strike.arm()
        runpy.run_path("train.py", run_name="__main__")

    def _prepare(self) -> None:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no run outlives the campaign
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(self._output.fileno(), 1)
        os.dup2(self._output.fileno(), 2)
        os.chdir(ROOT)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def poll(self) -> int | None:
        """The exit code, -n after signal n, or None while it runs."""
        if self._code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    @property
    def text(self) -> str:
        """What this start has said."""
        return os.pread(self._output.fileno(), 1_000_000, 0).decode(errors="replace")

    def send(self, number: int) -> None:
        self.mark()
        if self.poll() is None:
            os.kill(self.pid, number)

    def mark(self) -> None:
        """It is struck now."""
        self.struck = self.board.phase, self.board.step

    def until(self, condition: Callable[[], bool], what: str, pause: float = 0.002) -> bool:
        """Whether `condition` came before the end of the run; Failure, and an end to it, where it hangs."""
        seen, since = self._progress(), time.monotonic()
        while not condition():
            if self.poll() is not None:
                return condition()
            if (now := self._progress()) != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > LIMIT:
                self._end()
                said = self.text.strip().splitlines()[-1:] or ["nothing"]
                raise Failure(f"hung for {LIMIT:.0f} s: {what} ({self.board.phase}; it said last: {said[0]})")
            time.sleep(pause)
        return True

    def _progress(self) -> tuple[int, ...]:
        """Of which a slow machine lets something change within the limit."""
        log = self.folder / "csv" / "version_0" / "metrics.csv"
        try:
            logged = log.stat().st_size
        except OSError:
            logged = 0
        return self.board.step, os.fstat(self._output.fileno()).st_size, logged

    def wait(self, what: str) -> int:
        self.until(lambda: self.poll() is not None, what, pause=0.01)
        assert self._code is not None
        return self._code

    def kill(self) -> Run:
        self.send(signal.SIGKILL)
        self.wait("killed")
        return self

    def finish(self, what: str) -> None:
        """To its end, which must be a good one."""
        if code := self.wait(what):
            raise Failure(f"{what}: exit code {code}: {' '.join(self.text.strip().splitlines()[-3:])}")

    def refuse(self, what: str, sentence: str) -> None:
        """To its end, which must be exit code 1 after one sentence with these words."""
        code, text = self.wait(what), self.text
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        if code != 1 or len(errors) != 1 or sentence not in errors[0] or "Traceback" in text:
            said = " ".join(text.strip().splitlines()[-2:])
            raise Failure(f"{what}: exit code {code} and not one sentence with {sentence!r}: {said}")

    def _end(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def children(pid: int) -> list[int]:
    """Processes that `pid` has started."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.exists() else []


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _be_bound() -> None:
    """Root goes on without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: capget and capset of Linux, version 3."""
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _libc.capget(header, sets)
    sets[0] &= ~0b110
    _libc.capset(header, sets)
