"""How fast pictures come: `python -m benchmarks.data` measures our loaders beside torchvision's in one run.

Batches of 128 in model space, mirrored at random, on the CPU, which is also the device where `storage=device` and
augmentation say so. Pictures in memory are of CIFAR's sizes, files are JPEGs of 500 x 375 resized to 256, latents are
4 x 32 x 32, as of pictures of 256; all are made up. Rounds alternate between the loaders, so that a machine whose speed
drifts favours none; what workers made while they were not watched is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10, ImageFolder

from benchmarks.rounds import speed_up, spread, take_turns
from data import Folder, Karras, Latents, Pictures, Synthetic
from data.latents import manifest
from data.latents.arrays import array_bytes, checksum
from data.latents.encode import finish
from data.latents.manifest import Plan

BATCH = 128
FILES, WIDTH, HEIGHT, SIZE = 512, 500, 375, 256
LATENTS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        memory = {"ours, in memory": ours(Synthetic(pictures=50_000, **CIFAR))}
        memory["ours, on the device"] = ours(Synthetic(pictures=50_000, storage="device", **CIFAR))
        augmented = {**CIFAR, "mirror": False, "augment": Karras()}
        memory["ours, on the device, Karras augmentation"] = ours(
            Synthetic(pictures=50_000, storage="device", **augmented)
        )
        memory |= torchvision_cifar()
        show(memory, rounds, base="torchvision CIFAR10, 0 workers")
        files = {}
        for workers in (1, 2):
            settings = {"image_size": SIZE, "channels": 3, "num_classes": 2, "batch_size": BATCH, "mirror": True}
            for crop in ("center", "area"):
                data = Folder(root=folder, crop=crop, num_workers=workers, **settings)
                files[f"ours, JPEG folder, {crop} crop, {workers} workers"] = ours(data)
            files[f"torchvision ImageFolder, {workers} workers"] = torchvision_folder(folder, workers)
        write_cache(Path(folder) / "latents")
        for workers in (1, 2):
            shape = {"image_size": 32, "channels": 4, "num_classes": 2, "batch_size": BATCH, "mirror": True}
            cached = Latents(root=f"{folder}/latents", num_workers=workers, **shape)
            files[f"ours, latent cache, {workers} workers"] = ours(cached)
        show(files, rounds, base="torchvision ImageFolder, 2 workers")


CIFAR = {"image_size": 32, "channels": 3, "num_classes": 10, "batch_size": BATCH, "mirror": True}


def write_files(folder: Path) -> None:
    """Smooth pictures with a little noise, which compress as photographs do (about 80 KB each)."""
    rng = np.random.default_rng(0)
    for split, count in (("train", FILES), ("val", 2)):
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
            pixels = np.asarray(coarse) + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
            where = folder / split / f"class{number % 2}"
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(where / f"{number}.jpg", quality=90)


def write_cache(folder: Path) -> None:
    """What `python -m data.latents` leaves, of numbers that nobody encoded."""
    folder.mkdir()
    counts = {"train": LATENTS, "validation": 2}
    labels = {split: np.arange(count) % 2 for split, count in counts.items()}
    checksums = {split: checksum(array_bytes(values)) for split, values in labels.items()}
    unknown = {"vae": "", "vae_hash": "", "crop": None, "scale": 1.0, "shift": 0.0}
    unknown |= {"labels": checksums, "pictures": checksums}
    sizes = {"picture_size": SIZE, "channels": 4, "latent_size": 32, "dtype": "float16", "shard_size": 1024}
    plan = Plan(class_names=["0", "1"], counts=counts, source={}, **sizes, **unknown)
    rng = np.random.default_rng(0)
    for shard in plan.shards():
        manifest.write_shard(folder, shard, rng.standard_normal(plan.shape(shard), dtype=np.float32).astype(np.float16))
    for split, values in labels.items():
        manifest.write_labels(folder, split, values)
    finish(plan, folder)


def ours(data: Pictures) -> Iterator[torch.Tensor]:
    data.setup()
    loop = SimpleNamespace(total_batch_idx=-1)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(
        world_size=1, global_rank=0, accumulate_grad_batches=1, fit_loop=loop, strategy=strategy
    )
    return (data.on_after_batch_transfer(batch, 0).images for batch in data.train_dataloader())


def torchvision_cifar() -> dict[str, Iterator[torch.Tensor]]:
    dataset = CIFAR10.__new__(CIFAR10)  # its pictures are made up, what it does with them is not
    rng = np.random.default_rng(0)
    dataset.data, dataset.targets = rng.integers(0, 255, (50_000, 32, 32, 3), dtype=np.uint8), [0] * 50_000
    dataset.transform, dataset.target_transform = _transform(), None
    return {f"torchvision CIFAR10, {workers} workers": _endless(dataset, workers) for workers in (0, 1, 2)}


def torchvision_folder(folder: str, workers: int) -> Iterator[torch.Tensor]:
    square = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE)]
    return _endless(ImageFolder(f"{folder}/train", _transform(*square)), workers)


def _transform(*before: torch.nn.Module) -> transforms.Compose:
    return transforms.Compose(
        [*before, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )


def _endless(dataset, workers: int) -> Iterator[torch.Tensor]:
    loader = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )
    while True:
        yield from (images for images, _ in loader)


def show(loaders: dict[str, Iterator[torch.Tensor]], rounds: int, base: str) -> None:
    """Each is watched for about a second a round, and 8 batches at least."""
    batches = dict.fromkeys(loaders, 8)

    def watch(name: str) -> float:
        """Seconds a batch."""
        for _ in islice(loaders[name], 5):  # 2 batches a worker wait, and one is being made
            pass
        begun = time.perf_counter()
        shapes = {tuple(images.shape) for images in islice(loaders[name], batches[name])}
        assert len(shapes) == 1
        seconds = (time.perf_counter() - begun) / batches[name]
        time.sleep(5 * seconds)  # its workers fill their queues, and do not disturb the next
        batches[name] = max(8, round(1 / seconds))
        return seconds

    turns = take_turns({name: partial(watch, name) for name in loaders}, rounds)  # the first round starts workers
    print(f"{'':<46}{'images/s':>10}{'ratio':>8}")
    for name, mine in turns.seconds.items():
        ratio = speed_up(mine, turns.seconds[base]).median
        print(f"{name:<46}{BATCH / spread(mine).median:>10,.0f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
