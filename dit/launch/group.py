"""A process's place among the processes of its job, and the store they share, under torchrun, srun or ranks of ours."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

RANK_OF = "--rank-of"  # the argument of ranks that `Ranks` starts; the folder after it is for whoever reads `ps`
_WAIT = timedelta(minutes=10)  # for rank 0, which is importing and composing


@dataclass(frozen=True)
class Group:
    """rank of size processes in all, local_size on each of `nodes`; starter: who started them, for sentences.

    address: of the store. hosts: whether rank 0 must host it, because no agent does.
    """

    rank: int
    size: int
    local_size: int
    nodes: int
    starter: str
    address: tuple[str, int]
    hosts: bool
    attempt: str = "0"

    @functools.cached_property
    def store(self) -> Store:
        # Several tenants: torch's own rendezvous opens the same address later.
        server = self.hosts and self.rank == 0
        store = TCPStore(*self.address, is_master=server, wait_for_workers=False, timeout=_WAIT, multi_tenant=server)
        return PrefixStore(f"dit/{self.attempt}", store)

    def publish(self, job: bytes) -> None:
        """Rank 0 hands the job to the others; empty: there is none, they may leave."""
        self.store.set("job", job)  # type: ignore[arg-type]

    def receive(self) -> bytes:
        return self.store.get("job")

    def finish(self, value: Any) -> None:
        """What the job returned, for whoever started it. Numbers and lists of them; anything else counts as nothing."""
        if self.rank == 0:
            number = value if isinstance(value, int | float | list | tuple) else None
            self.store.set("value", json.dumps(number))

    def first_to_fail(self, error: str) -> bool:
        """Whether no rank failed before this one, which then says why; False too where the store's host is gone."""
        try:
            if self.store.add("failures", 1) > 1:
                return False
            self.store.set("error", error)
        except RuntimeError:
            return False
        return True


@functools.cache
def this_group() -> Group | None:
    """The group of this process, from its environment. None for a process that nobody started as one of several."""
    group = _group(os.environ)
    if group is not None and os.environ.get("SLURM_JOB_NAME") == "interactive":
        os.environ["SLURM_JOB_NAME"] = "srun"  # within salloc; by that name Lightning would not see the tasks
    return group


def _group(env: Mapping[str, str]) -> Group | None:
    if "TORCHELASTIC_RUN_ID" in env:
        size, local_size = int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
        address = env["MASTER_ADDR"], int(env["MASTER_PORT"])
        hosts = env.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        attempt = env.get("TORCHELASTIC_RESTART_COUNT", "0")
        return Group(int(env["RANK"]), size, local_size, size // local_size, "torchrun", address, hosts, attempt)
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PTY_PORT" not in env:  # srun, but no shell of srun's
        size, nodes = int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_STEP_NUM_NODES"])
        return Group(int(env["SLURM_PROCID"]), size, size // nodes, nodes, "srun", _slurm_address(env), hosts=True)
    return None


def _slurm_address(env: Mapping[str, str]) -> tuple[str, int]:
    """The first node, and a port of the step's own; MASTER_ADDR and MASTER_PORT if the user sets them."""
    nodes = env["SLURM_STEP_NODELIST"]
    first = re.sub(r"\[(\w+)[^\]]*\].*", r"\1", nodes).split(",")[0]  # gpu[07-09,12],cpu1 -> gpu07
    port = 15_000 + (int(env["SLURM_JOB_ID"]) + 101 * int(env["SLURM_STEP_ID"])) % 10_000
    return env.get("MASTER_ADDR", first), int(env.get("MASTER_PORT", port))
