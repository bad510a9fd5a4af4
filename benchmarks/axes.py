"""The axes of the network on digits at equal compute: `python -m benchmarks.axes` writes docs/axes.json and a table.

Every arm is `experiment=digits` with one axis changed, trained for as many steps as its GFLOPs allow within those of
the default, with three seeds. Validation loss over the fixed levels of log-SNR, and unguided samples scored against
the held-out digits. Training speed is measured afterwards, arm beside arm, as a ratio to the default.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.rounds import speed_up, spread, take_turns, timed
from benchmarks.speed.step import training_step
from data import pictures_from_spec, real_of_split
from dit.checkpoint import load
from dit.metrics import Reference, classifier_of, extract
from dit.metrics import score as score_features
from dit.model import DiT
from dit.model.__main__ import presets
from dit.model.count import count
from dit.solvers import Heun, Sampler, UniformGrid
from dit.training import LevelLoss

ROOT = Path(__file__).parents[1]
RUNS, CACHE = ROOT / "outputs" / "axes_study", ROOT / "outputs" / "cache"
SEEDS = (0, 1, 2)
STEPS = 800
PER_CLASS = 50

ARMS: dict[str, dict[str, Any]] = {
    "default: adaln_zero, layernorm, gelu, sincos": {},
    "conditioning=adaln": {"conditioning": "adaln"},
    "conditioning=adaln_single": {"conditioning": "adaln_single"},
    "conditioning=in_context": {"conditioning": "in_context"},
    "conditioning=cross_attention": {"conditioning": "cross_attention"},
    "class_tokens=4": {"class_tokens": 4},
    "class_tokens=4 class_tokens_from=1": {"class_tokens": 4, "class_tokens_from": 1},
    "norm=rmsnorm": {"norm": "rmsnorm"},
    "mlp=swiglu": {"mlp": "swiglu"},
    "position=none": {"position": "none"},
    "position=learned": {"position": "learned"},
    "position=rope": {"position": "rope"},
    "position=sincos_rope": {"position": "sincos_rope"},
    "qk_norm=true": {"qk_norm": True},
    "num_kv_heads=2": {"num_kv_heads": 2},
    "num_kv_heads=1": {"num_kv_heads": 1},
    "LightningDiT's: rmsnorm, swiglu, sincos_rope": {"norm": "rmsnorm", "mlp": "swiglu", "position": "sincos_rope"},
    "JiT's: the same, qk_norm, class_tokens=4 from 1": {
        "norm": "rmsnorm", "mlp": "swiglu", "position": "sincos_rope", "qk_norm": True, "class_tokens": 4,
        "class_tokens_from": 1,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "axes.json")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--part", choices=("quality", "speed"), help="only this one; the other's numbers stay")
    options = parser.parse_args()
    study = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.part != "speed":
        study["quality"] = quality(options.workers)
        options.out.write_text(json.dumps(study, indent=1) + "\n")
    if options.part != "quality":
        study["speed"] = speed()
        options.out.write_text(json.dumps(study, indent=1) + "\n")
    print(table(study))


def quality(workers: int) -> dict[str, Any]:
    """By arm: GFLOPs, steps, and of each seed the scores."""
    digits = presets()["dit_digits"]
    gflops = {name: count({"name": "dit"} | digits | changes)[1] for name, changes in ARMS.items()}
    base = next(iter(gflops.values()))
    steps = {name: round(STEPS * base / cost) for name, cost in gflops.items()}
    jobs = [(name, seed) for seed in SEEDS for name in ARMS]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda job: train(*job, steps[job[0]]), jobs))
    parameters = {name: count({"name": "dit"} | digits | changes)[0] for name, changes in ARMS.items()}
    return {
        name: {
            "gflops": gflops[name],
            "parameters": parameters[name],
            "steps": steps[name],
            "seeds": [score(folder(name, seed), seed) for seed in SEEDS],
        }
        for name in ARMS
    }


def folder(name: str, seed: int) -> Path:
    options = "-".join(f"{key}_{value}" for key, value in ARMS[name].items())  # Hydra takes no "=" in a folder's name
    return RUNS / f"{options or 'default'}_{seed}"


def train(name: str, seed: int, steps: int) -> None:
    """A run, unless an earlier study has left it."""
    where = folder(name, seed)
    if (where / "checkpoints" / "last.ckpt").exists():
        return
    command = [sys.executable, "train.py", "experiment=digits", f"seed={seed}", f"trainer.max_steps={steps}"]
    changes = [f"model.{key}={value}" for key, value in ARMS[name].items()]
    quiet = ["validate_every=100000", "callbacks.preview.every_n_steps=100000", f"hydra.run.dir={where}"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = time.monotonic()
    subprocess.run([*command, *changes, *quiet], cwd=ROOT, check=True, env=one_thread, stdout=subprocess.DEVNULL)
    print(f"{time.monotonic() - begun:4.0f} s  {name}, seed {seed}, {steps} steps", flush=True)


def score(where: Path, seed: int) -> dict[str, float]:
    """Of the first average's weights: validation loss, class accuracy and Frechet distance of unguided samples."""
    loaded = load(where / "checkpoints" / "last.ckpt")
    data = pictures_from_spec(loaded.pictures)
    data.prepare_data()
    data.setup()
    train, real = real_of_split("train", data.train), real_of_split("held-out", data.validation)
    classifier, held_out = classifier_of(train, real, data.num_classes, CACHE), real.tensors()
    codec = loaded.codec()
    losses = LevelLoss()(loaded.denoiser, codec.encode(held_out[0]), held_out[1], torch.arange(len(held_out[0])))
    sampler = Sampler(steps=15, grid=UniformGrid(), solver=Heun(), seed=seed, batch_size=10 * PER_CLASS)
    labels = loaded.labels(None, PER_CLASS)
    assert labels is not None
    images = (codec.decode(batch.x0) for batch in sampler.batches(loaded.denoiser, labels, loaded.shape))
    features, theirs = extract(classifier, images), extract(classifier, held_out[0].split(512))
    names, judged = ("frechet", "accuracy"), (torch.tensor(labels), features.logits)
    found = score_features(features, Reference.of(theirs, "held-out", ""), *judged, names=names, replicates=10)
    values = {name: estimate.value for name, estimate in found.items() if estimate is not None}
    return {"loss": float(torch.stack(list(losses.values())).mean()), **values}


def speed(rounds: int = 40, batch: int = 64) -> dict[str, dict[str, float]]:
    """Images a second of a training step, and its median ratio to the default's of the same round."""
    steps = {}
    for name, changes in ARMS.items():
        torch.manual_seed(0)
        network, x = DiT(**presets()["dit_digits"] | changes), torch.randn(batch, 1, 8, 8)
        pictures = x, torch.randint(999, (batch,)), torch.arange(batch) % 10
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        steps[name] = timed(training_step(network, optimizer, pictures, "fp32"))
    seconds = take_turns(steps, rounds, warm_up=3).seconds
    base = next(iter(seconds.values()))
    return {
        name: {"images_per_second": batch / spread(times).median, "ratio": speed_up(times, base).median}
        for name, times in seconds.items()
    }


def table(study: dict[str, Any]) -> str:
    lines = [
        "| model | parameters | steps | validation loss | class accuracy | Frechet distance | images/s over default |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, arm in study["quality"].items():
        cells = [name, f"{arm['parameters'] / 1e6:.2f} M", f"{arm['steps']:,}"]
        for key, digits in (("loss", 4), ("accuracy", 3), ("frechet", 2)):
            values = [run[key] for run in arm["seeds"]]
            cells.append(f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}")
        cells.append(f"{study['speed'][name]['ratio']:.2f}" if "speed" in study else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
