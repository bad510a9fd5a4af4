"""LIGHTNING GLUE. Thin: knows all of dit, but no Hydra and no particular logger."""

from typing import TYPE_CHECKING

from dit.lazy import on_use

if TYPE_CHECKING:
    from dit.training.checkpoints import RenamedCheckpointIO, SaveCheckpoint
    from dit.training.ema import Averages, Ema, PowerEma
    from dit.training.finetune import start_from
    from dit.training.module import DiTModule
    from dit.training.nonfinite import NonFinite, Rollback, Stop
    from dit.training.preview import Preview
    from dit.training.progress import TrainingProgress
    from dit.training.resume import find_start, say
    from dit.training.run_log import RunLog
    from dit.training.sharding import FullySharded
    from dit.training.snapshots import SaveSnapshots
    from dit.training.stability import StabilityLog
    from dit.training.trainer import make_trainer
    from dit.training.validation import LevelLoss
    from dit.training.wandb_run import finishing

__all__ = [
    "Averages",
    "DiTModule",
    "Ema",
    "FullySharded",
    "LevelLoss",
    "NonFinite",
    "PowerEma",
    "Preview",
    "RenamedCheckpointIO",
    "Rollback",
    "RunLog",
    "SaveCheckpoint",
    "SaveSnapshots",
    "StabilityLog",
    "Stop",
    "TrainingProgress",
    "find_start",
    "finishing",
    "make_trainer",
    "say",
    "start_from",
]

__getattr__ = on_use(__name__)
