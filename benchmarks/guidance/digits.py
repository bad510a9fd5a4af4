"""Guidance rules on trained networks: the digits model on two schedules, at equal network rows an image."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.guidance.arms import (
    CFG_EULER,
    CFG_PLUS_PLUS,
    INTERVAL_CFG,
    MEAN_START,
    PROJECTED,
    TNR_ALL,
    TNR_GATED,
    UNIPC,
    UNIPC_LOG_SNR,
    Arm,
    keeps_signal,
    steps_within,
)
from data import pictures_from_spec, real_of_split
from dit.checkpoint import Model, load
from dit.metrics import Classifier, Reference, classifier_of, extract
from dit.metrics import score as score_features
from dit.solvers import Sampler, UniPC

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "outputs" / "guidance_study"
CACHE = ROOT / "outputs" / "cache"
RECIPES = {"flow_linear": "logit_normal", "ddpm_scaled_linear": "uniform"}  # schedule: training times
TRAINING_STEPS = 1500
SEEDS = (0, 1, 2)
PER_CLASS = 50
ROWS = 32
SCALES = (1.0, 1.25, 1.5, 2.0)
LAMBDAS = (0.1, 0.2, 0.3, 0.4)
LOW_BAND = 2  # vertical plus horizontal frequency, at most

ARMS = (
    (CFG_EULER, SCALES),
    (MEAN_START, SCALES),
    (UNIPC, SCALES),
    (UNIPC_LOG_SNR, SCALES),
    (TNR_ALL, SCALES),
    (TNR_GATED, SCALES),
    (replace(TNR_ALL, name="TNR(CFG), UniPC-2", solver=UniPC(2)), SCALES),
    (CFG_PLUS_PLUS, LAMBDAS),
    (INTERVAL_CFG, SCALES[1:]),  # at scale 1 these two are CFG
    (PROJECTED, SCALES[1:]),
)


def train(schedule: str, seed: int) -> Path:
    """The checkpoint of a recipe, trained unless an earlier study has left it."""
    folder = RUNS / f"{schedule}_{seed}"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not (checkpoint.exists() and load(checkpoint).step == TRAINING_STEPS):
        command = [sys.executable, "train.py", "experiment=digits", f"diffusion={schedule}", f"seed={seed}"]
        options = [f"times={RECIPES[schedule]}", f"trainer.max_steps={TRAINING_STEPS}", f"hydra.run.dir={folder}"]
        resume = [f"resume={checkpoint}"] if checkpoint.exists() else []
        subprocess.run([*command, *options, *resume], cwd=ROOT, check=True)
    return checkpoint


@dataclass(frozen=True)
class Pictures:
    """uint8 [N, C, H, W] of both splits, labels [N] of the first, and the classifier of them."""

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    classifier: Classifier

    @classmethod
    def of(cls, loaded: Model) -> Pictures:
        data = pictures_from_spec(loaded.pictures)
        data.prepare_data()
        data.setup()
        train, held_out = real_of_split("train", data.train), real_of_split("held-out", data.validation)
        classifier = classifier_of(train, held_out, data.num_classes, CACHE)
        return cls(*train.tensors(), held_out.tensors()[0], classifier)


@dataclass(frozen=True)
class Quality:
    """Of uint8 pictures: class accuracy, Frechet distance, precision and recall against the held-out pictures, all in
    the classifier's features; power by spatial frequency (see `spectrum`) over that of the training pictures."""

    accuracy: float
    frechet: float
    precision: float
    recall: float
    low_band: float
    spectrum: list[float]

    @classmethod
    def of(cls, images: Tensor, labels: Tensor, real: Pictures) -> Quality:
        features, held_out = (extract(real.classifier, some.split(512)) for some in (images, real.held_out))
        wanted = ("frechet", "precision", "recall")
        found = score_features(features, Reference.of(held_out, "held-out", ""), names=wanted, replicates=10)
        values = {name: estimate.value for name, estimate in found.items() if estimate is not None}
        powers, real_powers = (spectrum(some, real.train) for some in (images, real.train))
        low = slice(0, LOW_BAND + 1)
        return cls(
            accuracy=real.classifier.accuracy(images, labels),
            **values,
            low_band=float(powers[low].sum() / real_powers[low].sum()),
            spectrum=(powers / real_powers).tolist(),
        )


def spectrum(images: Tensor, reference: Tensor) -> Tensor:
    """Mean power of uint8 images [N, C, H, W] about the mean picture of the reference, in the orthonormal cosine
    transform, summed over equal sums of vertical and horizontal frequency: [H + W - 1]."""
    about = images.double() - reference.double().mean(0)
    height, width = images.shape[-2:]
    waves = cosines(height) @ about @ cosines(width).T
    power = waves.square().mean((0, 1))  # [H, W]
    order = torch.arange(height)[:, None] + torch.arange(width)
    return torch.zeros(height + width - 1, dtype=power.dtype).index_add(0, order.flatten(), power.flatten())


def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II), [size, size]."""
    places = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    matrix = torch.cos(torch.pi * torch.arange(size, dtype=torch.float64)[:, None] * places)
    matrix[0] /= 2**0.5
    return matrix * (2 / size) ** 0.5


def study(report: Callable[[str], None]) -> dict[str, Any]:
    """All numbers of the part: by schedule the real pictures, and of each arm all scales with all seeds."""
    result: dict[str, Any] = {"rows": ROWS, "images": 10 * PER_CLASS, "seeds": list(SEEDS), "schedules": {}}
    for schedule in RECIPES:
        arms: dict[str, Any] = {}
        for seed in SEEDS:
            loaded = load(train(schedule, seed))
            real = Pictures.of(loaded)
            result["reference"] = len(real.held_out)
            result["real"] = asdict(Quality.of(*some_of(real), real))
            result["classifier"] = {"digest": real.classifier.digest, "accuracy": real.classifier.held_out_accuracy}
            for arm, scales in ARMS:
                if arm.init == "mean" and not keeps_signal(loaded.denoiser.path):
                    continue
                for scale in scales:
                    run = score(loaded, arm, scale, seed, real)
                    arms.setdefault(arm.name, {}).setdefault(f"{scale:g}", []).append(run)
                report(f"{schedule}, seed {seed}: {arm.name}")
        result["schedules"][schedule] = {name: summary(by_scale) for name, by_scale in arms.items()}
    return result


def some_of(real: Pictures) -> tuple[Tensor, Tensor]:
    """As many training pictures as there are samples, equally many of each class, and their labels."""
    labels = real.train_labels
    chosen = torch.cat([(labels == label).nonzero().flatten()[:PER_CLASS] for label in labels.unique()])
    return real.train[chosen], labels[chosen]


def score(loaded: Model, arm: Arm, scale: float, seed: int, real: Pictures) -> dict[str, Any]:
    """One arm at one scale: what it cost, and what came of it."""
    steps = steps_within(ROWS, arm, scale, loaded.denoiser.path)
    sampler = Sampler(steps, arm.grid, arm.solver, arm.guided(scale), seed, batch_size=10 * PER_CLASS, init=arm.init)
    labels = loaded.labels(None, PER_CLASS)
    assert labels is not None
    (run,) = sampler.batches(loaded.denoiser, labels, loaded.shape)
    images = loaded.codec().decode(run.x0)
    cost = {"steps": steps, "evaluations": run.nfe.evaluations, "rows": run.nfe.rows}
    return {**cost, **asdict(Quality.of(images, torch.tensor(labels), real))}


def summary(by_scale: dict[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Runs of several seeds as mean and standard deviation, and the scale of the least mean Frechet distance."""
    scales = {}
    for scale, runs in by_scale.items():
        numbers = [key for key, value in runs[0].items() if not isinstance(value, list)]
        means = {key: statistics.mean(run[key] for run in runs) for key in numbers}
        spreads = {key: statistics.stdev([run[key] for run in runs]) for key in numbers}
        bands = [statistics.mean(powers) for powers in zip(*(run["spectrum"] for run in runs), strict=True)]
        scales[scale] = {
            "mean": means,
            "std": spreads,
            "spectrum": bands,
            "runs": [{key: run[key] for key in numbers} for run in runs],
        }
    best = min(scales, key=lambda scale: scales[scale]["mean"]["frechet"])
    return {"best": best, "scales": scales}
