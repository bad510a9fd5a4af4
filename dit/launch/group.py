"""A process's place among the processes of its job, and how it is handed that job, whoever started them."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dit.launch.collectives import LOOPBACK, hosted_store, joined_store
from dit.launch.handover import InheritedFile, SignedStore
from dit.launch.secret import job_secret, secret_port

RANK_OF = "--rank-of"  # the argument of ranks that `Ranks` starts; the folder after it is for whoever reads `ps`
HANDED = "DITLAB_JOB_DESCRIPTOR"  # in the environment of those ranks: the descriptor of the file with the job


@dataclass(frozen=True)
class Group:
    """rank of size processes in all, local_size on each of `nodes`; starter: who started them, for sentences.

    address: of the store; port None: one made of the secret and `name`, which no other job of the user has at the same
    time. hosts: whether rank 0 must host it, because no agent does. handed: the descriptor of the file with the job,
    which then comes through no store.
    """

    rank: int
    size: int
    local_size: int
    nodes: int
    starter: str
    address: tuple[str, int | None]
    hosts: bool
    name: str = "0"
    handed: int | None = None

    @functools.cached_property
    def channel(self) -> InheritedFile | SignedStore:
        """The way that the job takes. Raises ValueError if there is no secret for it."""
        if self.handed is not None:
            return InheritedFile(self.handed)
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        secret, (host, port) = job_secret(), self.address
        port = secret_port(secret, self.name) if port is None else port
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))  # torch meets there as well
        store = hosted_store(host, port) if self.hosts and self.rank == 0 else joined_store(host, port)
        return SignedStore(PrefixStore(f"dit/{self.name}", store), secret, self.rank, self.size)

    def finish(self, value: Any) -> None:
        """What the job returned, for whoever started it. Numbers and lists of them; anything else counts as nothing."""
        if self.rank == 0:
            self.channel.finish(value if isinstance(value, int | float | list | tuple) else None)

    def first_to_fail(self, error: str) -> bool:
        """Whether no rank failed before this one, which then says why."""
        try:
            channel = self.channel
        except ValueError:  # without a secret; one process of each node says so
            return self.rank % self.local_size == 0
        return channel.first_to_fail(error)


@functools.cache
def this_group() -> Group | None:
    """The group of this process, from its environment. None for a process that nobody started as one of several."""
    group = _group(os.environ)
    if group is not None and group.handed is not None:
        os.set_inheritable(group.handed, False)
        del os.environ[HANDED]  # nor do processes that a rank starts look for it
    if group is not None and os.environ.get("SLURM_JOB_NAME") == "interactive":
        os.environ["SLURM_JOB_NAME"] = "srun"  # within salloc; by that name Lightning would not see the tasks
    return group


def _group(env: Mapping[str, str]) -> Group | None:
    if "TORCHELASTIC_RUN_ID" in env:
        size, local_size = int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
        address = env["MASTER_ADDR"], int(env["MASTER_PORT"])
        hosts = env.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        attempt = env.get("TORCHELASTIC_RESTART_COUNT", "0")
        handed = int(env[HANDED]) if HANDED in env else None
        nodes = size // local_size
        return Group(int(env["RANK"]), size, local_size, nodes, "torchrun", address, hosts, attempt, handed)
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PTY_PORT" not in env:  # srun, but no shell of srun's
        size, nodes = int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_STEP_NUM_NODES"])
        rank, address = int(env["SLURM_PROCID"]), _slurm_address(env, nodes)
        step = f"{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}"
        return Group(rank, size, size // nodes, nodes, "srun", address, hosts=True, name=step)
    return None


def _slurm_address(env: Mapping[str, str], nodes: int) -> tuple[str, int | None]:
    """The first node, or this machine if it is the only one; MASTER_ADDR and MASTER_PORT if the user sets them."""
    first = re.sub(r"\[(\w+)[^\]]*\].*", r"\1", env["SLURM_STEP_NODELIST"]).split(",")[0]  # gpu[07-09,12],cpu1 -> gpu07
    port = int(env["MASTER_PORT"]) if "MASTER_PORT" in env else None
    return env.get("MASTER_ADDR", LOOPBACK if nodes == 1 else first), port
