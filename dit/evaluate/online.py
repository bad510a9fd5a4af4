"""Scores while a run trains: logged beside the losses, written to scores.json, the best checkpoint kept."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from lightning import LightningModule, Trainer

from dit.checks import check_whole
from dit.evaluate.choose import measure_of
from dit.files import read_json
from dit.metrics import Extractor, Row, Share, Source, check_enough, labels_of, networks_named, write_scores
from dit.solvers import Sampler
from dit.training import DiTModule, FullySharded
from dit.training.restored import check_form
from dit.training.steps import StepCallback

_log = logging.getLogger(__name__)
_LOW = {"frechet", "spatial_frechet", "kid"}  # scores of which less is better


class OnlineMetrics(StepCallback):
    """Scores `images` samples of the averaged weights every `every_n_steps` optimiser steps and when training ends,
    once for each of `guidance_scales` (None: the guidance as it is); of several, those that the model cannot be guided
    by, as a model without dropped labels by any but 1, are left out with a warning.

    `folder`/scores.json has a row each, `score/frechet` and the like are logged, with @scale behind where there are
    several. The first process scores what all have sampled. best: the score, at the first scale, by which the best
    checkpoint is kept as `checkpoints`/best.ckpt; None keeps none. features: None for those of the classifier; real,
    split, names, labels and replicates are as `real`, `split`, `metrics`, `labels` and `replicates` of evaluate.py.
    """

    def __init__(
        self,
        folder: str,
        checkpoints: str,
        cache: str,
        sampler: Sampler,
        every_n_steps: int,
        images: int,
        guidance_scales: Annotated[Sequence[float | None], MinLen(1)] = (None,),
        features: Extractor | None = None,
        real: str | None = None,
        split: str = "validation",
        names: Annotated[Sequence[str], MinLen(1)] = ("frechet", "accuracy"),
        labels: str = "balanced",
        best: str | None = "frechet",
        replicates: int = 999,
        real_images: int = 50_000,
    ):
        check_whole("callbacks.metrics.every_n_steps", every_n_steps, least=1)
        check_whole("callbacks.metrics.images", images, least=2)
        if best is not None and best not in names:
            raise ValueError(f"callbacks.metrics.best must be null or one of {', '.join(names)}, got {best!r}")
        self.file, self.checkpoints, self.sampler = Path(folder) / "scores.json", Path(checkpoints), sampler
        self.every_n_steps, self.images, self.features = every_n_steps, images, features
        self.guidance_scales = list(guidance_scales)
        self.labels, self.best, self._best = labels, best, math.inf
        self._used: list[Sampler] = []
        self._options = {
            "cache": cache,
            "real": real,
            "split": split,
            "metrics": list(names),
            "judge": False,
            "replicates": replicates,
            "real_images": real_images,
        }

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is missing is found before training."""
        check_enough(self._options["metrics"], self.images, "callbacks.metrics.images")
        data = trainer.datamodule  # type: ignore[attr-defined]
        self._measure = measure_of(self._options, self.features, data, pl_module.device)
        assert isinstance(pl_module, DiTModule)
        labels = labels_of(self.labels, range(self.images), pl_module.network.num_classes, self.sampler.seed)
        given = None if labels is None else torch.tensor(labels)
        refusals: list[ValueError] = []
        for sampler in self._samplers():
            try:
                sampler.guidance.check(pl_module.denoiser, given)
            except ValueError as error:
                refusals.append(error)
            else:
                self._used.append(sampler)
        if not self._used:
            raise refusals[0]
        if refusals:
            told = f"{len(refusals)} of {len(self.guidance_scales)} callbacks.metrics.guidance_scales"
            _log.warning(f"{told} are left out: {refusals[0]}")

    def on_step_end(self, trainer: Trainer, module: DiTModule) -> None:
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            self._score(trainer, module)

    def _score(self, trainer: Trainer, module: DiTModule) -> None:
        network, name = module.network, module.ema.names[0]
        decode = trainer.datamodule.codec.decode  # type: ignore[attr-defined]
        parts = (
            network.num_classes,
            network.sample_shape,
            decode,
            f"ema {name}",
            trainer.global_step,
            ["step", trainer.global_step],
        )
        source, share = Source(module.denoiser, self.labels, *parts), self._share(trainer, module)
        cache = self.file.parent / f".scores-{trainer.global_rank if share.size == 1 else 'of-all'}"
        with module.ema_weights():
            made = [
                self._measure.of_samples(source, sampler, self.images, cache, share, own=True) for sampler in self._used
            ]
        rows = [each[0] for each in made if each is not None]
        if trainer.is_global_zero:
            self._write(source, rows)
            values = {f"score/{key}": value for key, value in self._named(rows).items()}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step - 1)
        first = float(trainer.strategy.broadcast(self._value(rows)))
        if share.size == 1 or trainer.is_global_zero:
            shutil.rmtree(cache)
        if self.best is not None and first < self._best:
            self._best = first
            trainer.save_checkpoint(self.checkpoints / "best.ckpt")

    def _samplers(self) -> list[Sampler]:
        rule = self.sampler.guidance
        return [replace(self.sampler, guidance=rule if s is None else rule.with_scale(s)) for s in self.guidance_scales]

    def _share(self, trainer: Trainer, module: DiTModule) -> Share:
        """Sharded weights want every process in every forward pass: there all make all images."""
        alone = isinstance(trainer.strategy, FullySharded)
        return Share(0, 1, module.device) if alone else Share(trainer.global_rank, trainer.world_size, module.device)

    def _write(self, source: Source, rows: list[Row]) -> None:
        """Below what earlier steps of the run have written."""
        before = []
        if self.file.exists():
            try:
                before = [row for row in read_json(self.file)["rows"] if row["step"] < source.step]
            except (KeyError, TypeError, ValueError) as error:
                _log.warning(f"{self.file} is damaged and begins anew: {error}")
        protocol = self._measure.protocol(source, self.images, self.sampler.seed)
        protocol |= {"batch_size": self.sampler.batch_size, **networks_named(self.sampler.guidance, None)}
        write_scores(self.file, protocol, rows, before)

    def _named(self, rows: list[Row]) -> dict[str, float]:
        ends = [""] if len(self.guidance_scales) == 1 else [f"@{row.scale:g}" for row in rows if row.scale is not None]
        return {
            f"{name}{end}": score.value
            for end, row in zip(ends, rows, strict=True)
            for name, score in row.scores.items()
            if score is not None
        }

    def _value(self, rows: list[Row]) -> float:
        """Of the score that decides, turned so that less is better."""
        value = rows[0].value(self.best) if rows and self.best else None
        return math.inf if value is None else value if self.best in _LOW else -value

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_form("best score", state_dict, {"best": 0.0})
        self._best = state_dict["best"]
