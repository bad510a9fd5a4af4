"""The devices of this machine: how many processes a job asks for, `trainer.devices` in every form Lightning takes, and
one device by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit.launch.group import Group

if TYPE_CHECKING:
    import torch


def count_ranks(trainer: Any, gpus: int | None = None) -> int:
    """One process a device. trainer: the node with accelerator, devices, num_nodes and strategy; gpus: as many as the
    job will see, by default those this process sees.

    ValueError, in one sentence, for what this machine cannot do.
    """
    if trainer.num_nodes != 1:
        raise ValueError(
            f"trainer.num_nodes={trainer.num_nodes} needs torchrun or srun on every node, see docs/multi_gpu.md; "
            "python train.py starts processes on this machine only"
        )
    import torch  # here: a typo in another key is refused without

    devices, count = trainer.devices, torch.cuda.device_count() if gpus is None else gpus
    on_gpus = trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and count > 0)
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if on_gpus and count == 0 and not torch.accelerator.is_available():
        raise ValueError(f"trainer.accelerator={trainer.accelerator}, but this process sees no GPU")
    if not on_gpus or count == 0:
        if devices == "auto" or (devices == 1 and not isinstance(devices, bool)):
            return 1
        if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
            raise ValueError(f"trainer.devices must be a number of at least 1 or auto without GPUs, got {devices!r}")
        return devices
    if devices in ("auto", -1):
        return count
    if isinstance(devices, str):
        devices = [int(part) for part in devices.split(",") if part.strip().isdigit()] or None
    if isinstance(devices, bool) or devices is None or (isinstance(devices, int) and devices < 1):
        raise ValueError(f"trainer.devices must be a number, auto, -1 or a list of GPUs, got {trainer.devices!r}")
    wanted = range(devices) if isinstance(devices, int) else list(devices)
    if not wanted or max(wanted) >= count or len(set(wanted)) != len(wanted):
        raise ValueError(f"trainer.devices={trainer.devices}, but this process sees {count} GPUs")
    return len(wanted)


def check_starter(trainer: Any) -> None:
    """ValueError for a strategy with which Lightning starts processes of its own, each with this command again."""
    if any(str(trainer.strategy).endswith(end) for end in ("_spawn", "_fork", "_notebook")):
        raise ValueError(f"trainer.strategy={trainer.strategy} starts processes by itself; ddp leaves that to train.py")


def adopt_group(trainer: Any, group: Group) -> None:
    """Under torchrun or srun the processes are there already: devices and num_nodes follow.

    ValueError if more than one was asked for, and it is another number.
    """
    for key, there in {"devices": group.local_size, "num_nodes": group.nodes}.items():
        asked = trainer[key]
        if hasattr(asked, "__len__") and not isinstance(asked, str):
            if len(asked) == there:
                continue  # a list of GPUs, one a process
        elif asked in ("auto", -1, 1, there):
            trainer[key] = there
            continue
        what = "processes on each node" if key == "devices" else "nodes"
        raise ValueError(f"trainer.{key}={asked}, but {group.starter} started {there} {what}")


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one, else the CPU; other names go to torch. ValueError if it is not there."""
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be auto, cpu or a device of this machine, got {name!r}") from error
    return device
