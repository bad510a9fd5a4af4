"""Pictures during training, by the same loop, seeds and settings as sample.py."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from dit.checks import check_whole
from dit.output import contact_sheet
from dit.solvers import CFG, Sampler
from dit.training.module import DiTModule

_log = logging.getLogger(__name__)


class Preview(Callback):
    """Samples from the averaged weights every `every_n_steps` and at the end: a PNG in `folder`, an image in each
    logger that takes images.

    The first sheet is made before the first step, so that a sampler that cannot work stops the run at once. A model
    with nothing to guide with (dropout.class 0, or no classes) is previewed without guidance, and says so.

    classes: how many of the first classes to show; per_class: images of each.
    """

    def __init__(self, folder: str, sampler: Sampler, every_n_steps: int, classes: int = 10, per_class: int = 4):
        for key, value in {"every_n_steps": every_n_steps, "classes": classes, "per_class": per_class}.items():
            check_whole(f"callbacks.preview.{key}", value, least=1)
        self.folder, self.sampler, self.every_n_steps = Path(folder).expanduser(), sampler, every_n_steps
        self.classes, self.per_class = classes, per_class
        self._last = -1

    def on_train_start(self, trainer: Trainer, pl_module: DiTModule) -> None:  # type: ignore[override]
        labels = torch.zeros(1) if pl_module.network.num_classes else None
        try:
            self.sampler.guidance.check(pl_module.denoiser, labels)  # type: ignore[arg-type]
        except ValueError as error:
            _log.warning(f"previews are made without guidance: {error}")
            self.sampler = replace(self.sampler, guidance=CFG(scale=1))
        # What is compiled first is compiled for its shape alone, and that should be the training step's.
        with torch.compiler.set_stance("force_eager"):
            self._show(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiTModule, *args: Any) -> None:  # type: ignore[override]
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            self._show(trainer, pl_module)

    def _show(self, trainer: Trainer, pl_module: DiTModule) -> None:
        # With accumulated batches several batches end at the same step.
        if trainer.global_step == self._last:
            return
        self._last = trainer.global_step
        # By every process: the weights may be spread over all of them.
        sheet = contact_sheet(self.images(trainer, pl_module), columns=self.per_class)  # [C, H, W]
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        picture = to_pil_image(sheet)
        picture.save(self.folder / f"step_{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # wandb
                logger.log_image("preview", [picture], step=trainer.global_step)  # type: ignore[attr-defined]
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("preview", sheet, trainer.global_step)

    def images(self, trainer: Trainer, pl_module: DiTModule) -> Tensor:
        """uint8 [classes x per_class, C, H, W], class by class, from the averaged weights."""
        network, codec = pl_module.network, trainer.datamodule.codec  # type: ignore[attr-defined]
        shown = range(min(self.classes, network.num_classes))
        labels = [label for label in shown for _ in range(self.per_class)] or None
        with pl_module.ema_weights():
            batches = self.sampler.batches(
                pl_module.denoiser, labels, network.sample_shape, self.classes * self.per_class, pl_module.device
            )
            return torch.cat([codec.decode(batch.x0).cpu() for batch in batches])
