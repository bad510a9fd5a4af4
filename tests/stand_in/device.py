"""The device "standin": its tensors are computed on the CPU, refuse to mix with the CPU's, and count waits of the host.

What counts as a wait is what makes CUDA's host thread wait for work it has launched: reading a value, a copy to the CPU
or from it unless non_blocking, and operations whose result's shape depends on values. A non_blocking copy to the CPU
holds garbage until an event or a synchronisation says that it has arrived; waiting for an event counts unless `DEPTH`
operations were launched behind it, which keep the device busy meanwhile.

If a new torch breaks this file: `torch.utils.backend_registration._setup_privateuseone_for_python_backend` is
experimental. Its own example is torch's test/test_privateuseone_python_backend.py; copy how that test registers a
backend into `register`, and how it wraps a tensor into `DeviceTensor`. Where torch lacks it (before 2.10), `register`
skips the tests.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "standin"
DEPTH = 20  # operations that count as enough work for the device while the host waits for an event before them
ROOT = Path(__file__).parents[2]


class Wait(NamedTuple):
    """One wait of the host: what for, and the innermost line of ours that asked."""

    reason: str
    line: str


class Host:
    """What the host did: its waits, the operations it launched, and the copies that have not arrived."""

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.launched = 0
        self.arriving: list[tuple[torch.Tensor, torch.Tensor]] = []

    def wait(self, reason: str) -> None:
        self.waits.append(Wait(reason, _our_line()))
        self.arrive()

    def arrive(self) -> None:
        for target, source in self.arriving:
            target.copy_(source)
        self.arriving = []

    def send(self, source: torch.Tensor) -> torch.Tensor:
        """A copy that holds garbage until it arrives."""
        target = torch.full_like(source, True if source.dtype == torch.bool else -77)
        self.arriving.append((target, source.clone()))
        return target


HOST = Host()


@contextmanager
def waits() -> Iterator[list[Wait]]:
    """The waits inside, as a list that grows."""
    before, HOST.waits = HOST.waits, []
    try:
        yield HOST.waits
    finally:
        HOST.waits = before


def _our_line() -> str:
    ours = [f for f in traceback.extract_stack() if f.filename.startswith((f"{ROOT}/dit/", f"{ROOT}/data/"))]
    return f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}" if ours else "outside of dit and data"


class Event:
    """torch.cuda.Event, as far as it is used."""

    def record(self) -> None:
        self.at = HOST.launched

    def synchronize(self) -> None:
        if HOST.launched - self.at < DEPTH:
            HOST.wait("an event with no work behind it")
        HOST.arrive()


class Module:
    """What torch and Lightning ask of torch.standin."""

    Event = Event
    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    _lazy_init = staticmethod(lambda: None)
    device_count = staticmethod(lambda: 2)
    current_device = staticmethod(lambda: 0)
    set_device = staticmethod(lambda index: None)
    manual_seed = staticmethod(lambda seed: None)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: None)

    @staticmethod
    def synchronize(device: Any = None) -> None:
        HOST.wait("synchronize")


class DeviceTensor(torch.Tensor):
    """A tensor on the stand-in device; `raw` is the CPU tensor behind it."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor, index: int = 0, requires_grad: bool = False) -> DeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, index),
            requires_grad=requires_grad,
        )
        made.raw = raw
        return made

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In a file it is the tensor that `map_location="cpu"` makes of one of a GPU."""
        HOST.wait("saved")
        return self.raw.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


# Operations that read values to know the shape of their result, or hand one to the host.
_READS = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
_INDEXING = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
}  # may lie on the CPU, as on CUDA
_MAY_MIX = {"aten::_to_copy", "aten::copy_", *_INDEXING}


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, _ = pytree.tree_flatten((args, kwargs))
    there = [x for x in flat if isinstance(x, DeviceTensor)]
    here = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, DeviceTensor)]
    name, device = func._schema.name, kwargs.get("device")
    HOST.launched += bool(there)
    if len({x.device for x in there if x.dim() or name in _MAY_MIX}) > 1 and name not in _MAY_MIX:
        raise RuntimeError(
            f"{name}: all tensors must be on the same device, found {sorted({str(x.device) for x in there})}"
        )
    if there and name not in _MAY_MIX and any(x.dim() for x in here):
        raise RuntimeError(f"{name}: all tensors must be on the same device, found {NAME} and cpu")
    if there and name in _READS:
        HOST.wait(name)
    index = there[0].device.index if there else 0
    to_device, sent = bool(there), False
    if device is not None:
        target = torch.device(device)
        to_device, index = target.type == NAME, target.index or 0
        if to_device and name == "aten::_to_copy" and here and not kwargs.get("non_blocking"):
            HOST.wait("a copy to the device")
        if there and not to_device:
            sent = bool(kwargs.get("non_blocking"))
            if not sent:
                HOST.wait("a copy to the CPU")
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif name == "aten::copy_":
        to_device = isinstance(args[0], DeviceTensor)
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        if there and not to_device:
            HOST.wait("a copy to the CPU")
        elif here and args[1].dim() and not non_blocking:
            HOST.wait("a copy to the device")
    elif name in _INDEXING and isinstance(args[0], DeviceTensor):
        if any(x.dim() for x in here if x is not args[0]):
            HOST.wait("an index of the CPU")
        if any(isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1]):
            HOST.wait("a mask as an index")
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    args, kwargs = pytree.tree_map(lambda x: x.raw if isinstance(x, DeviceTensor) else x, (args, kwargs))
    out = func(*args, **kwargs)
    if not to_device:
        return HOST.send(out) if sent else out
    known = {id(x.raw): x for x in there}  # an operation in place returns the tensor itself

    def wrap(x: Any) -> Any:
        plain = isinstance(x, torch.Tensor) and not isinstance(x, DeviceTensor)
        return known.get(id(x)) or DeviceTensor(x, index) if plain else x

    # `or` must not ask a tensor for its truth.
    def wrapped(x: Any) -> Any:
        return known[id(x)] if id(x) in known else wrap(x)

    return pytree.tree_map(wrapped, out)


class OnStandIn(TorchDispatchMode):
    """Inside, tensors can be made on the stand-in device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


_LIBRARY: list[torch.library.Library] = []  # kept alive; registered once a process


def register() -> None:
    """Make the device known to torch, once. Skips the test where torch has no such interface."""
    if _LIBRARY:
        return
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    except ImportError:
        pytest.skip(f"torch {torch.__version__} cannot register a backend in Python; 2.10 or newer can")
    _setup_privateuseone_for_python_backend(NAME, Module())
    library = torch.library.Library("aten", "IMPL")
    # torch.as_tensor(1.0, device="standin") and the like go past a mode.
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    _LIBRARY.append(library)


def _empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype), torch.device(device).index or 0)


def _empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return DeviceTensor(torch.empty(size, dtype=dtype), torch.device(device).index or 0)


def _copy_from(source, target, non_blocking=False):
    if isinstance(source, DeviceTensor) != isinstance(target, DeviceTensor) and not non_blocking:
        HOST.wait("a copy to the CPU" if isinstance(source, DeviceTensor) else "a copy to the device")
    to, what = (x.raw if isinstance(x, DeviceTensor) else x for x in (target, source))
    to.copy_(what)
    return target
