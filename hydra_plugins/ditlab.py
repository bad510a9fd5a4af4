"""Where Hydra looks for launchers: `hydra/launcher=slots` runs the trials of a sweep side by side on this machine."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:  # Hydra imports this file for every command; what it needs comes with a sweep
    from rich.console import Console

    from dit.launch import Slots, Task, Trial, TrialPlan


class SlotLauncher(Launcher):
    """One process group a trial, each from a configuration composed before the first starts; see `dit.launch.Sweep`.

    gpus_per_job: GPUs of a trial; None: as many as its `trainer.devices` asks for. slots: trials at a time, all seeing
    the same GPUs; None: as many as there are GPUs for, or one where there is no GPU.
    """

    def __init__(self, gpus_per_job: int | None = None, slots: int | None = None):
        for key, value in {"gpus_per_job": gpus_per_job, "slots": slots}.items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"hydra.launcher.{key} must be null or a whole number of at least 1, got {value!r}")
        if gpus_per_job is not None and slots is not None:
            raise ValueError("hydra.launcher.slots shares all GPUs, hydra.launcher.gpus_per_job divides them: give one")
        self.gpus_per_job, self.slots = gpus_per_job, slots

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config
        self.task: Task = task_function  # type: ignore[assignment]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs each trial that the manifest in `hydra.sweep.dir` does not have as finished."""
        from dit.checks import printable

        try:
            return self._launch(job_overrides, initial_job_idx)
        except ValueError as error:
            sys.stderr.write(f"error: {printable(str(error))}\n")
            raise SystemExit(1) from None

    def _launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from rich.console import Console

        from dit.launch import Manifest, Slots, Sweep

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        slots, console = Slots(self.slots), Console(highlight=False)
        if self.gpus_per_job is not None and self.gpus_per_job > slots.gpus:
            raise ValueError(f"hydra.launcher.gpus_per_job={self.gpus_per_job}: this process sees {slots.gpus} GPUs")
        with Manifest(Path(self.config.hydra.sweep.dir)) as manifest:
            configs = [self._compose(initial_job_idx + index, list(o)) for index, o in enumerate(job_overrides)]
            trials = [manifest.add(_trial(config)) for config in configs]
            todo = [(t, config) for t, config in zip(trials, configs, strict=True) if t.state != "finished"]
            planned = [plan for t, config in todo if (plan := self._plan(t, config, slots, console)) is not None]
            before = f", {len(trials) - len(todo)} finished before" if len(todo) < len(trials) else ""
            _say(console, f"{len(trials)} trials{before}: {manifest.file}")
            fixed = [str(override) for override in self.config.hydra.overrides.task]
            Sweep(manifest, slots, console, fixed).run(planned)
        failed = [trial for trial in trials if trial.state == "failed"]
        self.task.failed += len(failed)
        names = "; failed: " + ", ".join(f"#{trial.number}" for trial in failed) if failed else ""
        _say(console, f"{len(trials) - len(failed)} of {len(trials)} trials finished{names}")
        _report(manifest.folder, console)
        return [_returned(trial, config) for trial, config in zip(trials, configs, strict=True)]

    def _compose(self, number: int, overrides: list[str]) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _plan(self, trial: Trial, config: DictConfig, slots: Slots, console: Console) -> TrialPlan | None:
        """None if its configuration is a mistake already: the trial has failed."""
        from dit.launch import TrialPlan, sentence

        task_config = _task_config(config)
        try:
            ranks = self.task.count(task_config, self.gpus_per_job or slots.gpus or None)
            # A job on the CPU of a machine with GPUs may have more processes than there are GPUs.
            size = (self.gpus_per_job or min(ranks, slots.gpus)) if slots.gpus else 1
            if slots.gpus:
                self.task.count(task_config, size)  # a list of GPUs must be within the slot
        except (ValueError, OmegaConfBaseException) as error:
            trial.state, trial.error = "failed", sentence(error)
            _say(console, f"#{trial.number} failed: error: {trial.error}")
            return None
        return TrialPlan(trial, size, ranks, self._preparing(config))

    def _preparing(self, config: DictConfig) -> Callable[[], tuple[list[str], bytes]]:
        from dit.launch import Job, settled

        def prepare() -> tuple[list[str], bytes]:
            """Hydra makes the folder of the job, with .hydra in it; what it would run is packed for the ranks."""
            packed: list[Job] = []
            where = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
            task = lambda task_config: packed.append(Job.of(settled(task_config)))  # noqa: E731
            result = run_job(task, config, **where, hydra_context=self.context, configure_logging=False)
            _ = result.return_value  # raises what went wrong
            return self.task.command(packed[0].folder), packed[0].packed()

        return prepare


def _report(folder: Path, console: Console) -> None:
    """Written when all is done: whatever goes wrong with it changes nothing of the sweep."""
    try:
        from dit.report import write_report

        said = f"report: {write_report(folder).html}"
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        said = f"no report: {kind}{' '.join(str(error).split())}"
    _say(console, said)


def _say(console: Console, line: str) -> None:
    """A line of overrides, errors and paths: no markup, and nothing that a terminal would obey."""
    from dit.checks import printable

    console.print(printable(line), soft_wrap=True, markup=False, emoji=False)


def _task_config(config: DictConfig) -> DictConfig:
    """Without Hydra's own node, as a task function sees it."""
    HydraConfig.instance().set_config(config)
    task_config = config.copy()
    with open_dict(task_config):
        del task_config["hydra"]
    return task_config


def _trial(config: DictConfig) -> Trial:
    from dit.launch import Trial

    overrides = [str(override) for override in config.hydra.overrides.task]
    digest = hashlib.sha256(OmegaConf.to_yaml(_task_config(config)).encode()).hexdigest()[:16]
    return Trial(config.hydra.job.num, overrides, digest, str(config.hydra.sweep.subdir))


def _returned(trial: Trial, config: DictConfig) -> JobReturn:
    """As a sweeper expects it of a job."""
    from dit.launch import Mistake

    done = trial.state == "finished"
    return JobReturn(
        overrides=trial.overrides,
        cfg=_task_config(config),
        task_name=config.hydra.job.name,
        status=JobStatus.COMPLETED if done else JobStatus.FAILED,
        _return_value=trial.value if done else Mistake(trial.error),
    )
