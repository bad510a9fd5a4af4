"""How a job reaches the processes of its group: in a file they inherit, or signed, through a store on the network."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

from dit.locks import lock_descriptor


class InheritedFile:
    """An open file without a name. Its first line is the job; a line of JSON follows from each rank that has something
    to say. Only processes that inherit the descriptor reach it."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    @classmethod
    def of(cls, job: bytes) -> InheritedFile:
        """A new file that holds `job`, which must be one line."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("ditlab-job")  # in memory: a full disk does not keep a rank from speaking
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        inherited = cls(descriptor)
        inherited._add(job)
        return inherited

    def receive(self) -> bytes:
        return self._lines()[0]

    def finish(self, value: float | list[Any] | tuple[Any, ...] | None) -> None:
        with self._locked():
            self._add(json.dumps({"value": value}).encode())

    def first_to_fail(self, error: str) -> bool:
        """Whether no rank failed before this one, whose sentence is then kept."""
        with self._locked():
            first = "error" not in self.said()
            if first:
                self._add(json.dumps({"error": error}).encode())
        return first

    def said(self) -> dict[str, Any]:
        """What the ranks said: `value` and `error`, if any."""
        said: dict[str, Any] = {}
        for line in self._lines()[1:]:
            said |= json.loads(line)
        return said

    def close(self) -> None:
        os.close(self.descriptor)

    def _lines(self) -> list[bytes]:
        content = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
        return content.split(b"\n")[:-1]

    def _add(self, line: bytes) -> None:
        with open(self.descriptor, "ab", closefd=False) as file:
            file.write(line + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock_descriptor(self.descriptor, wait=True, of_process=True)
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)


class SignedStore:
    """A store on the network, without authentication of its own: ranks believe a job only if it carries the digest of
    somebody who knows `secret`, for the number that the rank has just drawn (a job of an earlier run does not)."""

    def __init__(self, store: Store, secret: bytes, rank: int, size: int):
        self.store, self.secret, self.rank, self.size = store, secret, rank, size
        self.published = False

    def publish(self, job: bytes) -> None:
        """Rank 0 hands the job to the others, and waits until they are there; empty: there is none, they may leave."""
        self.published = True
        self.store.set("job", job)  # type: ignore[arg-type]
        for rank in range(1, self.size) if job else ():
            drawn = self.store.get(f"drawn/{rank}")
            self.store.set(f"digest/{rank}", self._digest(drawn, job))  # type: ignore[arg-type]

    def receive(self) -> bytes:
        """Raises ValueError if the digest is not the job's."""
        drawn = secrets.token_bytes(32)
        self.store.set(f"drawn/{self.rank}", drawn)  # type: ignore[arg-type]
        job = self.store.get("job")
        if job and not hmac.compare_digest(self.store.get(f"digest/{self.rank}"), self._digest(drawn, job)):
            raise ValueError(
                "the job handed to this process is not signed with its secret; nothing was run. Where nodes do not "
                "share the home folder, set DITLAB_JOB_SECRET to the same value on each, see docs/multi_gpu.md"
            )
        return job

    def finish(self, value: Any) -> None:
        """Nobody asks: torchrun and srun look at exit codes."""

    def first_to_fail(self, error: str) -> bool:
        """Whether no rank failed before this one; False too where the store's host is gone."""
        try:
            return self.store.add("failures", 1) == 1
        except RuntimeError:
            return False

    def _digest(self, drawn: bytes, job: bytes) -> bytes:
        parts = hashlib.sha256(drawn).digest() + hashlib.sha256(job).digest()
        return hmac.digest(self.secret, parts, "sha256")
