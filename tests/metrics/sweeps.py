"""Folders as sweeps leave them behind, made up on the spot."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

HEADER = ["epoch", "images_seen", "step", "train/loss", "val/loss", "val/loss_log_snr+1", "val_raw/loss"]
FIXED = ["experiment=digits", "trainer.max_steps=300"]


def overrides_of(choice: dict[str, Any]) -> list[str]:
    return [*FIXED, *(f"{key}={value}" for key, value in choice.items())]


def hydra(folder: Path, choice: dict[str, Any], **config: Any) -> None:
    """The .hydra of a job."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides_of(choice)))
    known = {
        "trainer": {"max_steps": 300},
        "validation": {"_target_": "dit.training.LevelLoss", "levels": [-3, 0, 3], "seed": 0},
        "data": {"_target_": "data.Digits", "image_size": 8, "validation_images": 360},
    }
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(known | config))


def metrics(folder: Path, losses: Sequence[float], every: int = 100) -> Path:
    """metrics.csv with the validation loss each `every` steps; raw is 0.01 above, the training loss 0.1 below."""
    file = folder / "csv" / "version_0" / "metrics.csv"
    file.parent.mkdir(parents=True)
    with file.open("w", newline="") as out:
        rows = csv.DictWriter(out, HEADER)
        rows.writeheader()
        for index, loss in enumerate(losses, 1):
            step = index * every - 1
            rows.writerow({"epoch": index, "images_seen": 64 * (step + 1), "step": step, "train/loss": loss - 0.1})
            rows.writerow({"step": step, "val/loss": loss, "val/loss_log_snr+1": 2 * loss, "val_raw/loss": loss + 0.01})
    return file


def preview(file: Path, seed: int = 0, rows: int = 5, columns: int = 3, size: int = 16) -> Path:
    """A contact sheet: white lines between blobs of one colour a row."""
    draw = np.random.default_rng(seed)
    sheet = np.full((rows * (size + 2) + 2, columns * (size + 2) + 2, 3), 255, dtype=np.uint8)
    for y in range(rows):
        for x in range(columns):
            tile = draw.integers(0, 120, (size, size, 3)) + np.array([30 * y, 0, 40 * x])
            sheet[2 + y * (size + 2) :, 2 + x * (size + 2) :][:size, :size] = tile
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(file)
    return file


def score_row(scale: float | None, values: dict[str, float], **facts: Any) -> dict[str, Any]:
    known = {
        "name": f"CFG {scale}",
        "step": 300,
        "guidance": {"name": "CFG", "scale": scale},
        "scale": scale,
        "solver": {"name": "Heun"},
        "steps": 25,
        "evaluations": 49,
        "rows": 98.0,
        "weights": "ema 0.999",
        "images": 1000,
        "seconds": 1.0,
    }
    scores = {name: {"value": v, "low": v - 0.1, "high": v + 0.1} for name, v in values.items()}
    return known | {"scores": scores} | facts


def real_row(values: dict[str, float]) -> dict[str, Any]:
    scores = {name: {"value": v, "low": None, "high": None} for name, v in values.items()}
    return {"name": "real pictures", "guidance": None, "solver": None, "images": 1000, "scores": scores}


def scores(folder: Path, rows: Sequence[dict[str, Any]], **protocol: Any) -> Path:
    known = {
        "images": 1000,
        "labels": "balanced",
        "seed": 0,
        "weights": "ema 0.999",
        "reference": {"name": "digits, held out", "images": 360, "digest": "0a1b2c"},
        "features": {"name": "classifier", "digest": "3d4e5f", "held_out_accuracy": 0.99},
        "normalisation": "pixels",
        "checkpoint": "run/checkpoints/last.ckpt",
        "step": 300,
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scores.json"
    file.write_text(json.dumps({"protocol": known | protocol, "rows": list(rows)}))
    return file


def manifest(folder: Path, choices: Sequence[dict[str, Any]], **of: dict[int, Any]) -> Path:
    """sweep.json in which all finished, but for what `state`, `error` and `value` tell of some by number."""
    trials = []
    for number, choice in enumerate(choices):
        trial = {"number": number, "overrides": overrides_of(choice), "folder": str(number), "config": "c"}
        trial |= {"state": "finished", "error": None, "value": None, "slot": ["0"], "exit_code": 0}
        trial |= {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:01:00+00:00"}
        trials.append(trial | {key: told[number] for key, told in of.items() if number in told})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({"trials": trials}))
    return folder


def product(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """Of Hydra: the last key runs fastest. Names are written with __ for a dot."""
    choices: list[dict[str, Any]] = [{}]
    for key, options in values.items():
        choices = [choice | {key.replace("__", "."): option} for choice in choices for option in options]
    return choices


def sweep(
    folder: Path, choices: Sequence[dict[str, Any]], loss: Callable[[dict[str, Any]], Sequence[float]], **of: Any
) -> Path:
    """A whole one of train.py, with a preview of each trial."""
    manifest(folder, choices, **of)
    for number, choice in enumerate(choices):
        hydra(folder / str(number), choice)
        metrics(folder / str(number), loss(choice))
        preview(folder / str(number) / "previews" / "step_0000300.png", number)
    return folder
