"""Every kind of file that is read: how one is made, and all that is read of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import pictures_from_spec
from data.files import read_picture
from data.latents.manifest import Manifest
from data.order import Pick
from dit.checkpoint import Model, StoredMetadata, import_loaded, load, reconstruct, write_snapshot
from dit.checkpoint.exporting import export_diffusers, export_safetensors
from dit.files import read_json, write_json
from dit.metrics import Classifier, Features, NpzImages, Reference
from dit.metrics.classifier import SmallConvNet
from dit.metrics.moments import Gaussian
from dit.report.read import read_sweep
from tests.checkpoint.foreign import W
from tests.checkpoint.ours import METADATA, checkpoint
from tests.data.caches import cache, latents, save_vae
from tests.metrics.sweeps import hydra, metrics, preview


@dataclass(frozen=True)
class Kind:
    """make: writes an example below a folder and gives the files that may be struck; read: all that is read below the
    folder, as plain values and tensors, or raises ValueError. checked: whether every change of it is found; text that
    people write and edit too is not."""

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    checked: bool = True


def fingerprint(value: Any) -> str:
    """A digest of nested containers, tensors and arrays."""
    content = hashlib.blake2b(digest_size=16)

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor | np.ndarray):
            array = torch.as_tensor(part).contiguous()
            content.update(f"{array.dtype}{list(array.shape)}".encode())
            content.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(part, dict):
            content.update(b"{")
            for key in sorted(part, key=repr):
                content.update(repr(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            content.update(b"[")
            for item in part:
                add(item)
        else:
            content.update(repr(part).encode())

    add(value)
    return content.hexdigest()


def _of(loaded: Model) -> Any:
    if loaded.metadata.codec.get("name") != "Latents":  # whose autoencoder is not here
        loaded.codec()
    if loaded.metadata.pictures:
        pictures_from_spec(loaded.pictures)
    said = {**loaded.metadata.to_dict(), "config": None}  # for people
    return dict(loaded.network.state_dict()), said, loaded.weights, loaded.step


def _checkpoint(folder: Path) -> list[Path]:
    return [checkpoint(folder / "last.ckpt")]


def _exported(folder: Path) -> list[Path]:
    export_safetensors(load(checkpoint(folder / "made.ckpt")), folder / "x.safetensors")
    (folder / "made.ckpt").unlink()
    return [folder / "x.safetensors"]


def _snapshots(folder: Path) -> list[Path]:
    for step in (10, 20, 30):
        for length in (0.05, 0.1):
            weights = {"a": torch.randn(64, 8), "b": torch.randn(32)}
            write_snapshot(
                folder / "ema", weights, StoredMetadata(METADATA, f"ema length {length}", step), torch.float32
            )
    return sorted((folder / "ema").iterdir())


def _diffusers(folder: Path) -> list[Path]:
    export_diffusers(load(checkpoint(folder / "made.ckpt", dropout=0.3, time_endpoint=True)), folder / "pipeline")
    (folder / "made.ckpt").unlink()
    return sorted(file for file in (folder / "pipeline").rglob("*") if file.is_file())


def _foreign(folder: Path) -> list[Path]:
    args = {"model": "DiT-S/2", "num_classes": 5, "image_size": 32, "global_seed": 0, "vae": "ema", "results_dir": "r"}
    torch.save({"model": W, "ema": W, "args": args}, folder / "theirs.pt")
    return [folder / "theirs.pt"]


def _latents(folder: Path) -> list[Path]:
    cache(folder / "cache", save_vae(folder / "vae"), source={"name": "Digits", "image_size": 8})
    shutil.rmtree(folder / "vae")
    return sorted((folder / "cache").iterdir())


def _of_latents(folder: Path) -> Any:
    data = latents(folder / "cache", num_classes=len(Manifest.read(folder / "cache").plan.class_names))
    seen = [split.images([Pick(i, m) for i in range(len(split)) for m in (False, True)]) for split in _splits(data)]
    return seen, [split.labels for split in _splits(data)], data.facts


def _splits(data: Any) -> Any:
    return data.train, data.validation


def _reference(folder: Path) -> list[Path]:
    moments = Gaussian(torch.randn(16, dtype=torch.float64), torch.eye(16, dtype=torch.float64))
    Reference("r", "d", moments, None, torch.randn(50, 16), 50).save(folder / "reference.safetensors")
    return [folder / "reference.safetensors"]


def _of_reference(folder: Path) -> Any:
    read = Reference.load(folder / "reference.safetensors")
    return read.name, read.digest, read.images, read.pooled, read.moments.mean, read.moments.covariance


def _classifier(folder: Path) -> list[Path]:
    Classifier(SmallConvNet(1, 10, 8).eval(), "d", 0.9, 10, (1, 8, 8)).save(folder / "classifier")
    return [folder / "classifier"]


def _of_classifier(folder: Path) -> Any:
    read = Classifier.load(folder / "classifier")
    return dict(read.network.state_dict()), read.digest, read.held_out_accuracy, read.num_classes, read.shape


def _features(folder: Path) -> list[Path]:
    Features(torch.randn(20, 5), torch.randn(20, 3)).save(folder / "images.safetensors")
    return [folder / "images.safetensors"]


def _of_features(folder: Path) -> Any:
    read = Features.load(folder / "images.safetensors")
    return read.pooled, read.spatial, read.logits


def _kept(folder: Path) -> list[Path]:
    score = {"value": 3.0, "low": 2.5, "high": None}
    write_json(folder / "scores.json", {"images": 100, "scores": {"frechet": score}}, sealed=True)
    return [folder / "scores.json"]


def _npz(folder: Path) -> list[Path]:
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 1), dtype=np.uint8)
    np.savez(folder / "x.npz", images, np.arange(20) % 10)
    return [folder / "x.npz"]


def _of_npz(folder: Path) -> Any:
    read = NpzImages.open(folder / "x.npz")
    return list(read.batches()), read.labels


def _png(folder: Path) -> list[Path]:
    return [preview(folder / "x.png")]


def _sweep(folder: Path) -> list[Path]:
    trials = []
    for number in range(2):
        job = folder / str(number)
        choice = {"optimizer.lr": 10.0 ** -(number + 2)}
        hydra(job, choice)
        metrics(job, [1.0, 0.8 - 0.1 * number])
        preview(job / "previews" / "step_0000300.png", number)
        score = {"value": 3.0 + number, "low": 2.5, "high": 4.5}
        rows = [{"name": "ema", "step": 300, "scale": 1.0, "images": 100, "scores": {"frechet": score}}]
        write_json(job / "scores.json", {"line": "", "protocol": {"seed": 0}, "rows": rows}, sealed=True)
        trials.append({"number": number, "folder": str(number), "overrides": [f"a={number}"], "state": "finished"})
    write_json(folder / "sweep.json", {"trials": trials})
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _of_sweep(folder: Path) -> Any:
    sweep = read_sweep(folder)
    return [(t.overrides, t.state, t.curves, t.scores, t.error, t.value, t.remarks, t.picture) for t in sweep.trials]


KINDS = {
    "checkpoint .ckpt": Kind(_checkpoint, lambda folder: _of(load(folder / "last.ckpt"))),
    "exported .safetensors": Kind(_exported, lambda folder: _of(load(folder / "x.safetensors"))),
    "snapshots": Kind(_snapshots, lambda folder: reconstruct(folder, 0.07).state()),
    "folder for diffusers": Kind(_diffusers, lambda folder: _of(import_loaded(folder / "pipeline", "diffusers"))),
    "weights of DiT's own code": Kind(
        _foreign, lambda folder: _of(import_loaded(folder / "theirs.pt", "dit", num_heads=2))
    ),
    "latent cache": Kind(_latents, _of_latents),
    "reference": Kind(_reference, _of_reference),
    "classifier": Kind(_classifier, _of_classifier),
    "features": Kind(_features, _of_features),
    "kept scores": Kind(_kept, lambda folder: read_json(folder / "scores.json", sealed=True)),
    ".npz of pictures": Kind(_npz, _of_npz),
    "PNG": Kind(_png, lambda folder: np.asarray(read_picture(folder / "x.png", "RGB"))),
    "sweep": Kind(_sweep, _of_sweep, checked=False),
}
