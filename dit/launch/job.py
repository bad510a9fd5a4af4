"""A composed job on its way to other processes: its configuration, Hydra's own, and the moment that `${now:}` means."""

from __future__ import annotations

import logging
import os
import pickle
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf


@dataclass
class Job:
    """config: unresolved, as a task function gets it; hydra: what `${hydra:}` reads, the output directory included."""

    config: DictConfig
    hydra: Any
    moment: float = field(default_factory=time.time)

    @classmethod
    def of(cls, config: DictConfig) -> Job:
        """The job that Hydra is running in this process."""
        return cls(config, HydraConfig.instance().cfg)

    @property
    def folder(self) -> str:
        return self.hydra.hydra.runtime.output_dir

    def packed(self) -> bytes:
        # Pickled, as the launchers of Hydra do: types, flags and what was already resolved stay as they are.
        return pickle.dumps(self)

    @staticmethod
    def unpacked(content: bytes) -> Job:
        return pickle.loads(content)

    def enter(self, rank: int) -> DictConfig:
        """Makes this process one that runs the job, as Hydra would have; only rank 0 writes the log file."""
        setup_globals()
        self.pin_time()
        HydraConfig.instance().cfg = self.hydra
        settings = self.hydra.hydra
        os.environ.update({key: str(value) for key, value in settings.job.env_set.items()})
        if settings.job.chdir:
            os.chdir(self.folder)
        if rank == 0:
            configure_log(settings.job_logging, settings.verbose)
        else:
            logging.disable(logging.INFO)  # what all have to say, rank 0 says
        return self.config

    def pin_time(self) -> None:
        """`${now:}` means the same in each process of the job."""
        moment = datetime.fromtimestamp(self.moment)
        OmegaConf.register_new_resolver("now", lambda pattern: moment.strftime(pattern), use_cache=True, replace=True)
