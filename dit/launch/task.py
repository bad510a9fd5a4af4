"""What Hydra runs: a script's `main`, in as many processes as its job asks for, a user's mistake in one sentence."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dit.checks import printable
from dit.imports import import_modules
from dit.launch.collectives import confine
from dit.launch.configuration import choices
from dit.launch.devices import adopt_group, check_starter, count_ranks
from dit.launch.folder import held, leave_nothing
from dit.launch.group import RANK_OF, Group, this_group
from dit.launch.handover import SignedStore
from dit.launch.job import Job
from dit.launch.ranks import Ranks, wait
from dit.launch.recipe import settled
from dit.launch.schema import check_parts, check_plain
from dit.lazy import say_loading

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)  # no bugs of ours


_SMALLER = (
    "a smaller data.batch_size (sampling: batch_size), a larger trainer.accumulate_grad_batches, "
    "model.activation_checkpointing=1 or trainer=fsdp needs less"
)


class Mistake(CompactHydraException):
    """How a job of a sweep ends over a user's mistake: Hydra goes on with the next job, and shows no traceback."""


def sentence(error: BaseException) -> str:
    """The innermost message in one printable line: Hydra wraps what a constructor raised, OmegaConf puts words before
    what a resolver raised, a data worker adds its traceback."""
    while error.__cause__ is not None and isinstance(error, InstantiationException | OmegaConfBaseException):
        error = error.__cause__
    if isinstance(error, MissingMandatoryValue):
        return printable(f"{error.full_key} must be given")
    message = str(error).partition("full_key:")[0].strip()
    if message.startswith("Recursive interpolation"):  # of which OmegaConf does not say the key
        message = f"{' '.join(each for each in sys.argv[1:] if '${' in each)} interpolates itself"
    if "DataLoader worker process" in message:
        message = message.splitlines()[-1].partition(": ")[2]
    return printable(" ".join(message.split()).removeprefix("ValueError raised while resolving interpolation: "))


def mistake(error: Exception) -> str | None:
    """One sentence for what a user can mend; None for a bug of ours."""
    if isinstance(error, ValueError | FloatingPointError | InstantiationException | OmegaConfBaseException):
        return sentence(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        return printable(f"{error.strerror}: {error.filename or 'a file of this run'} cannot be written")
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, of parts that do not go together
        return sentence(error)
    if type(error).__module__.partition(".")[0] == "wandb":
        return f"logger=wandb: {sentence(error).rstrip('.')}; WANDB_MODE=offline logs without an account or a network"
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        return f"{printable(str(error).partition('. GPU')[0])}; {_SMALLER}"
    return None


def _say_reading() -> None:
    """The first word, within half a second. A shell that asks for completions gets nothing else."""
    if not {"-sc", "--shell-completion"} & set(sys.argv[1:]):
        sys.stderr.write("reading the configuration\n")


class Task:
    """A Hydra task function around `main`, which returns what a sweeper is to optimise, or None.

    A job that asks for several processes is run by that many, each handed this one's configuration; a process that is
    one of several already takes its place among them. options: a dataclass with the key and the type of each value.
    trainer: the key of the node with accelerator, devices, num_nodes and strategy; None for a script of one process.
    configs: the folder of its configuration, and the name of the file in it.

    What is a mistake says `mistake`; anything else is a bug of ours
    and keeps its traceback, as does everything under HYDRA_FULL_ERROR=1. Of several ranks the first to fail speaks.
    """

    def __init__(
        self, main: Callable[[DictConfig], Any], options: type, trainer: str | None, configs: tuple[Path, str]
    ):
        self.main, self.options, self.trainer, self.configs = main, options, trainer, configs
        self.failed = 0  # trials of a sweep, counted by its launcher: not every sweeper says so at the end
        self.script = str(Path(inspect.getfile(main)).resolve())
        functools.update_wrapper(self, main)  # Hydra looks for the script there

    def __call__(self, config: DictConfig) -> Any:
        """Called by Hydra, with the job it composed."""
        group = this_group() if self.trainer else None
        with self._one_sentence(group, sweeping=HydraConfig.get().mode == RunMode.MULTIRUN):
            config = settled(config)
            if group is not None:
                job = Job.of(config)
                job.pin_time()
                if isinstance(group.channel, SignedStore):
                    group.channel.publish(job.packed())
                return self._run(config, group)
            count = self.count(config)
            check_parts(config, self.options)
            return self._spread(config, count) if count > 1 else self._hold(config)

    def start(self, hydra_main: Callable[[], None]) -> None:
        """What the script calls: only one process of a group composes, and makes the output directory."""
        group = this_group()
        if sys.argv[1:2] == [RANK_OF]:
            warnings.filterwarnings("ignore", message="The `srun` command is available")
        if group is not None and (sys.argv[1:2] == [RANK_OF] or (self.trainer and group.rank > 0)):
            with self._one_sentence(group, sweeping=False):
                if content := group.channel.receive():
                    self._run(Job.unpacked(content).enter(group.rank), group)
        elif group is None or not self.trainer:
            self._compose(hydra_main)
            if self.failed:
                raise SystemExit(1)
        else:
            with self._one_sentence(group, sweeping=False):
                channel = group.channel
            try:
                if {"-m", "--multirun"} & set(sys.argv[1:]):
                    sys.stderr.write(f"error: a sweep starts its own processes: run it without {group.starter}\n")
                    raise SystemExit(1)
                self._compose(hydra_main)
            finally:
                if isinstance(channel, SignedStore) and not channel.published:
                    channel.publish(b"")

    def _compose(self, hydra_main: Callable[[], None]) -> None:
        _say_reading()
        try:
            sys.argv[1:] = choices(sys.argv[1:], *self.configs)
        except ValueError as error:
            sys.stderr.write(f"error: {sentence(error)}\n")
            raise SystemExit(1) from None
        try:
            hydra_main()
        except SystemExit as stop:
            if stop.code:
                leave_nothing()
            raise

    def count(self, config: DictConfig, gpus: int | None = None) -> int:
        """How many processes of this machine the job is for. gpus: as in `count_ranks`. ValueError for a mistake."""
        self._check(config)
        return count_ranks(config[self.trainer], gpus) if self.trainer else 1

    def command(self, folder: str) -> list[str]:
        """Of one rank of a job with that output directory."""
        return [sys.executable, self.script, RANK_OF, folder]

    def _spread(self, config: DictConfig, count: int) -> Any:
        job = Job.of(config)
        ranks = Ranks(self.command(job.folder), job.packed(), count)
        code = wait(ranks)
        if code == 0:
            return ranks.value
        error = ranks.error
        if error is None:
            error = ranks.death
            sys.stderr.write(f"error: {error}\n")  # else the rank has said it
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise Mistake(error)
        raise SystemExit(code)

    def _run(self, config: DictConfig, group: Group) -> Any:
        confine(group.nodes)
        self._check(config)
        check_parts(config, self.options)
        if self.trainer:
            adopt_group(config[self.trainer], group)
        value = self._hold(config) if group.rank == 0 else self.main(config)
        group.finish(value)
        return value

    def _hold(self, config: DictConfig) -> Any:
        """Two processes that train would mix in one folder; the other scripts write where they are told."""
        if not self.trainer:
            return self.main(config)
        with held(HydraConfig.get().runtime.output_dir):
            return self.main(config)

    def _check(self, config: DictConfig) -> None:
        check_plain(config, self.options)
        if self.trainer:
            check_starter(config[self.trainer])
        say_loading()
        if "imports" in config:
            said = config.imports
            import_modules(OmegaConf.to_container(said) if isinstance(said, ListConfig) else said)

    @contextmanager
    def _one_sentence(self, group: Group | None, sweeping: bool) -> Iterator[None]:
        try:
            yield
        except SystemExit as stop:
            if group is not None:
                group.first_to_fail(f"stopped, exit code {stop.code}")  # it has said why
            raise
        except KeyboardInterrupt:
            if group is None:
                raise
            raise SystemExit(130) from None  # the terminal's user knows, and one line from each rank is too many
        except Exception as error:
            said, full = mistake(error), os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
            first = group is None or group.first_to_fail(said or f"{type(error).__name__}: {error}")
            if full or (said is None and (first or sweeping)):
                raise
            if said is not None and first:
                sys.stderr.write(f"error: {said}\n")
            if sweeping:
                raise Mistake(said) from None
            raise SystemExit(1) from None
