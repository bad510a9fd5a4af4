"""A composed job on its way to other processes: its configuration, Hydra's own, and the moment that `${now:}` means."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from datetime import datetime

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dit.launch.packing import dumps, loads, put_together, taken_apart


@dataclass
class Job:
    """config: unresolved, as a task function gets it; composed: what Hydra composed, with its own node `hydra` (output
    directory included), whose interpolations may lead anywhere in it."""

    config: DictConfig
    composed: DictConfig
    moment: float = field(default_factory=time.time)

    @classmethod
    def of(cls, config: DictConfig) -> Job:
        """The job that Hydra is running in this process."""
        composed = HydraConfig.get()._get_parent()  # type: ignore[attr-defined]
        assert isinstance(composed, DictConfig)
        return cls(config, composed)

    @property
    def folder(self) -> str:
        return self.composed.hydra.runtime.output_dir

    def packed(self) -> bytes:
        """JSON. Raises ValueError for a configuration that is not plain data."""
        # Hydra's dataclass makes its enums of their names again; nobody asks for those of a sweeper or launcher.
        return dumps([taken_apart(self.config), taken_apart(self.composed, enum_to_str=True), self.moment])

    @staticmethod
    def unpacked(content: bytes) -> Job:
        """Reads `content` as data: nothing in it is imported or called. Raises ValueError if it is malformed."""
        try:
            config, composed, moment = loads(content)
            job = Job(put_together(config), put_together(composed, {"hydra": HydraConf}), float(moment))
            if not isinstance(job.folder, str):
                raise TypeError(job.folder)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OmegaConfBaseException) as error:
            raise ValueError("the job handed to this process is malformed; nothing was run") from error
        return job

    def enter(self, rank: int) -> DictConfig:
        """Makes this process one that runs the job, as Hydra would have; only rank 0 writes the log file."""
        setup_globals()
        self.pin_time()
        HydraConfig.instance().set_config(self.composed)
        settings = self.composed.hydra
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
