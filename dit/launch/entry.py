"""THE WAY IN from a command line, for every script and command that has a configuration."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from dit.checks import printable
from dit.launch.task import Task
from dit.resolvers import register_resolvers


def entry(
    config_name: str,
    options: type,
    configs: str = "configs",
    trainer: str | None = None,
) -> Callable[..., Any]:
    """`hydra.main` on the folder `configs`, as seen from the script, in which a user's mistake ends in one sentence and
    exit code 1, and a job runs in as many processes as it asks for; see `dit.launch.Task`.

    options: a dataclass with the type of each key, see `dit.launch.options`. trainer: the key that says how many
    processes.
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
        task = Task(main, options, trainer, (Path(inspect.getfile(main)).resolve().parent / configs, config_name))
        hydra_main = hydra.main(version_base="1.3", config_path=configs, config_name=config_name)(task)
        return functools.partial(task.start, hydra_main)

    return decorate
