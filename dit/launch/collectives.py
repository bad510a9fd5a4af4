"""What torch.distributed listens on and what it unpickles, in the processes of a job."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from datetime import timedelta
from pathlib import PosixPath, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a job of one process starts without
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

LOOPBACK = "127.0.0.1"
_WAIT = timedelta(minutes=10)  # for rank 0, which is importing and composing
_PATHS = {("pathlib", kind.__name__): kind for kind in (PosixPath, PurePosixPath)}


def hosted_store(host: str = LOOPBACK, port: int = 0) -> TCPStore:
    """A store that this process hosts. On the loopback address it listens there alone; torch by itself listens on all
    addresses of the machine, whatever `host` is. port: 0 takes a free one."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    descriptor = None
    if host in (LOOPBACK, "localhost"):
        host = LOOPBACK
        with socket.create_server((host, port), backlog=1024) as listening:
            port, descriptor = listening.getsockname()[1], listening.detach()
    # Several tenants: torch's own rendezvous opens the same address later.
    options: dict[str, Any] = {"wait_for_workers": False, "timeout": _WAIT, "multi_tenant": True}
    return TCPStore(host, port, is_master=True, master_listen_fd=descriptor, **options)


def joined_store(host: str, port: int) -> TCPStore:
    """A store that another process hosts, or will."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_WAIT)


def confine(nodes: int) -> None:
    """Keeps gloo and NCCL of a job on one machine to the loopback interface (GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME,
    if set, win), and the object collectives of any job to plain data."""
    from torch.distributed import distributed_c10d

    if nodes == 1:
        interface = "lo" if sys.platform == "linux" else "lo0"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    distributed_c10d._unpickler = _Plain  # type: ignore[attr-defined]


class _Plain(pickle.Unpickler):
    """Numbers, text, containers and paths, as Lightning broadcasts them. A pickle runs code by naming a function."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PATHS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"{module}.{name} was sent to this process by another; only plain data is taken"
            ) from None
