"""WHAT SCRIPTS AND COMMANDS SHARE: the way in from a command line, the device, a config's way into plain containers."""

from __future__ import annotations

import functools
import re
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dit.checks import printable, shown
from dit.files import write_text
from dit.launch import Task, this_group
from dit.resolvers import register_resolvers

if TYPE_CHECKING:  # a command answers before PyTorch and Lightning are imported
    import torch
    from lightning.pytorch.loggers import Logger, WandbLogger

    from dit.checkpoint import Model
    from dit.metrics import Share


def entry(
    config_name: str,
    whole: dict[str, int],
    configs: str = "configs",
    trainer: str | None = None,
) -> Callable[..., Any]:
    """`hydra.main` on the folder `configs`, as seen from the script, in which a user's mistake ends in one sentence and
    exit code 1, and a job runs in as many processes as it asks for; see `dit.launch.Task`.

    whole: keys that must be whole numbers, with the least allowed. trainer: the key that says how many processes.
    `main` imports what needs PyTorch itself: a typo is refused and `--help` shown without.
    """
    # Lightning 2.6 calls what PyTorch 2.15 deprecates; nobody who runs a script can do anything about it.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    shown = warnings.formatwarning
    # A warning may name a file, whose name may hold what a terminal obeys.
    warnings.formatwarning = lambda message, *rest, **more: shown(printable(str(message)), *rest, **more)
    store = ConfigStore.instance()
    # Hydra copies its store for each group that `--help` lists, and changes none of the copies.
    vars(store)["__deepcopy__"] = lambda memo: store
    register_resolvers()

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], None]:
        task = Task(main, whole, trainer)
        hydra_main = hydra.main(version_base="1.3", config_path=configs, config_name=config_name)(task)
        return functools.partial(task.start, hydra_main)

    return decorate


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration in plain containers."""
    result = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(result, dict)
    return {str(key): value for key, value in result.items()}


def adopt(config: DictConfig, loaded: Model) -> None:
    """Makes model and diffusion of an unresolved configuration those of a checkpoint, before anything else reads them;
    pictures, dropout and kernels stay the run's own. What is written there is what network and path say of themselves,
    never what the file said.

    ValueError for an override of what the checkpoint decides. What an experiment chose of it is replaced.
    """
    own = ("image_size", "channels", "num_classes", *loaded.network.RUN_ARGUMENTS)
    for override in HydraConfig.get().overrides.task:
        key = override.lstrip("+~").partition("=")[0]
        group, _, name = key.partition(".")
        if group in ("model", "diffusion") and name not in own:
            raise ValueError(
                f"{override} cannot be asked of a run with finetune_from: the checkpoint decides model and diffusion, "
                f"but for model.{', model.'.join(own[3:])}"
            )
    unresolved = OmegaConf.to_container(config.model)
    assert isinstance(unresolved, dict)
    kind = type(loaded.network)
    _check_plain(loaded.network.arguments)
    config.model = {
        "_target_": f"{kind.__module__}.{kind.__qualname__}",
        **loaded.network.arguments,
        **{key: unresolved[key] for key in own if key in unresolved},
    }
    config.diffusion = {
        "path": {"_target_": "dit.diffusion.path_from_spec", "spec": loaded.denoiser.path.spec},
        "kind": loaded.denoiser.kind,
        "sigma_data": loaded.denoiser.sigma_data,
    }


def _check_plain(value: Any) -> None:
    """ValueError for what a configuration would compute or call: it is a file's, and stays data."""
    if isinstance(value, str) and "${" in value:
        raise ValueError(
            f"the network of finetune_from has an argument that a configuration would compute: {shown(value)}"
        )
    if isinstance(value, Mapping) and any(str(key).startswith("_") for key in value):
        raise ValueError(
            f"the network of finetune_from has an argument that a configuration would call: {shown(value)}"
        )
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_plain(item)


def wandb_logger(save_dir: str, **settings: Any) -> WandbLogger:
    """Lightning's logger on the wandb run whose name is in `save_dir`/wandb_id: a run that is resumed goes on in it."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only
    from lightning.pytorch.loggers import WandbLogger

    file = Path(save_dir) / "wandb_id"
    if rank_zero_only.rank == 0 and not file.exists():
        write_text(file, secrets.token_hex(4))
    name = file.read_text(errors="replace").strip() if rank_zero_only.rank == 0 else None
    if name is not None and not re.fullmatch(r"[\w-]{1,64}", name):
        raise ValueError(f"{file} must hold the name of a wandb run, got {shown(name)}; remove it to begin another")
    return WandbLogger(save_dir=save_dir, id=name, resume="allow", **settings)


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


def share_of(device: str) -> Share:
    """This process's place among those of its job, and its device: a GPU for each process of a machine, but for one
    that was named with its number."""
    import torch

    from dit.metrics import Share

    group = this_group()
    picked = pick_device(device)
    if group is None:
        return Share(0, 1, picked)
    if picked.type != "cpu" and picked.index is None:
        picked = torch.device(picked.type, group.rank % group.local_size)
    return Share(group.rank, group.size, picked)


@contextmanager
def finishing(loggers: Sequence[Logger]) -> Iterator[None]:
    """Ends the wandb run, as failed if the body raises: the jobs of a sweep share a process, each needs its own."""
    from lightning.pytorch.loggers import WandbLogger

    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=exit_code)
