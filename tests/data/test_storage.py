"""Where pictures live does not change a batch: from the disk, from memory or from the device, to the bit."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data import Cifar, Digits, Folder, Karras, Synthetic
from data.order import Pick
from data.pictures import _check_shared_memory
from data.split import Picks
from data.subset import Subset
from tests.data.test_data import tree  # noqa: F401
from tests.training.tiny import assert_same, module, state, trainer

STORAGES = ("disk", "memory", "device")


@pytest.fixture
def pngs(tmp_path):
    """Digits' shape in files: 10 classes of 7 pictures, 3 for validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 3)):
        for label in range(10):
            folder = tmp_path / split / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (8 + i % 2, 9), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


def folder(root, **changes):
    sizes = {"image_size": 8, "channels": 1, "num_classes": 10, "batch_size": 16, "validation_images": 8}
    return Folder(**{"root": str(root), **sizes, **changes})


def batches(data, count):
    """What training steps are given, by the loader and hooks that Lightning calls."""
    data.setup()
    data.trainer = SimpleNamespace(
        world_size=1,
        global_rank=0,
        accumulate_grad_batches=1,
        fit_loop=SimpleNamespace(total_batch_idx=-1),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return [data.on_after_batch_transfer(batch, 0) for batch in islice(data.train_dataloader(), count)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "changes",
    [
        {"mirror": True},
        {"augment": Karras(probability=0.5)},
        {"mirror": True, "augment": Karras(probability=0.5, x_flip=False)},
        {"mirror": True, "classes": ["7", "2", "5"], "num_classes": 3, "fraction": 0.6},
        {"augment": Karras(), "classes": ["7", "2", "5"], "num_classes": 3},
    ],
    ids=["mirror", "augment", "mirror and augment", "mirrored subset", "augmented subset"],
)
def test_batches_are_equal_to_the_bit(pngs, changes, workers):
    disk, *others = (batches(folder(pngs, storage=s, num_workers=workers, **changes), 9) for s in STORAGES)
    assert {tuple(batch.images.shape) for batch in disk} == {(16, 1, 8, 8)}
    assert len({tuple(batch.index.tolist()) for batch in disk}) == 9
    for other in others:
        for mine, theirs in zip(disk, other, strict=True):
            told, same = ({**batch._asdict(), **batch.conditions} for batch in (mine, theirs))
            assert told.pop("conditions").keys() == same.pop("conditions").keys()
            for name, a in told.items():
                assert (a is None and same[name] is None) or torch.equal(a, same[name]), name
    assert all(("augment" in batch.conditions) == ("augment" in changes) for batch in disk)


def test_mirrored_pictures_are_mirrored_on_the_device():
    data = Digits(image_size=8, channels=1, num_classes=10, batch_size=64, mirror=True, storage="device")
    (batch,) = batches(data, 1)
    (numbers,) = islice(data.train_dataloader(), 1)
    assert isinstance(numbers, Picks)
    assert 10 < int(numbers.mirrored.sum()) < 54
    plain = data.codec.encode(torch.stack([data.train.read(i) for i in numbers.index.tolist()]))
    expected = torch.where(numbers.mirrored[:, None, None, None], plain.flip(-1), plain)
    assert torch.equal(batch.images, expected)
    assert torch.equal(batch.labels, data.train.labels[numbers.index])


@pytest.mark.parametrize("augment", [None, Karras(probability=0.5)], ids=["plain", "augmented"])
def test_training_is_the_same_from_everywhere(pngs, tmp_path, augment):
    """Six steps by Lightning with validation between, on some classes of a folder."""
    runs = []
    for storage in STORAGES:
        subset = {"classes": ["7", "2", "5"], "num_classes": 3, "fraction": 0.8, "batch_size": 8}
        data = folder(pngs, storage=storage, augment=augment, mirror=augment is None, **subset)
        data.setup()
        model = module(data, augment_dim=0 if augment is None else 9)
        run = trainer(tmp_path / storage, 6, val_check_interval=3)
        run.fit(model, data)
        runs.append(state(model, run) | {"val": run.callback_metrics["val/loss"]})
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


def test_loaders_of_the_device_have_no_workers(pngs):
    data = folder(pngs, storage="device", num_workers=2)
    batches(data, 1)
    assert data.train_dataloader().num_workers == 0
    assert data.val_dataloader().num_workers == 2


def test_a_split_in_memory_is_what_was_read(pngs):
    data = folder(pngs)
    data.setup()
    for split in (data.train, Subset(data.train, [3, 1], 0.5)):
        memory = split.in_memory(chunk=3)
        assert torch.equal(memory.pixels, torch.stack([split.read(i) for i in range(len(split))]))
        assert torch.equal(memory.labels, split.labels)
        assert memory.in_memory() is memory


def test_pictures_are_decoded_once_and_only_the_chosen_ones(pngs, monkeypatch):
    data = folder(pngs, storage="memory", classes=["7", "2"], num_classes=2)
    data.setup()
    read, images = [], type(data.train._parent).images
    counted = lambda self, picks: read.extend(pick.index for pick in picks) or images(self, picks)  # noqa: E731
    monkeypatch.setattr(type(data.train._parent), "images", counted)
    batches(data, 9)
    assert set(read) == {*range(49, 56), *range(14, 21)}
    assert len(read) == 15  # one is looked at for its shape


def test_a_subset_hands_on_draws_and_mirrors(tree):  # noqa: F811
    data = Folder(str(tree), 3, image_size=16, num_classes=3, batch_size=4, crop="random_resized")
    data.setup()
    subset = Subset(data.train, [1])
    picks = [Pick(2, True, 17), Pick(0, False, 5)]
    batch = subset.__getitems__(picks)
    whole = data.train.__getitems__([pick._replace(index=pick.index + 4) for pick in picks])
    assert torch.equal(batch.images, whole.images)
    assert batch.draws.tolist() == [17, 5]
    assert batch.index.tolist() == [2, 0]


def test_validation_is_neither_drawn_nor_augmented(pngs):
    data = folder(pngs, storage="device", augment=Karras(probability=1))
    (trained,) = batches(data, 1)
    assert trained.conditions["augment"].any()
    (batch,) = data.val_dataloader()
    assert batch.draws is None
    seen = data.on_after_batch_transfer(batch, 0)
    assert seen.conditions == {}
    assert torch.equal(seen.images, data.codec.encode(batch.images))


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_of_the_disk(pngs, tmp_path):
    runs = []
    for storage in STORAGES:
        data = folder(pngs, storage=storage, augment=Karras(probability=0.5))
        data.setup()
        model = module(data, augment_dim=9)
        seen, step = [], model.training_step
        model.training_step = lambda batch, i, step=step, seen=seen: seen.append(batch) or step(batch, i)
        trainer(tmp_path / storage, 3, accelerator="gpu").fit(model, data)
        runs.append(seen)
    for other in runs[1:]:
        for mine, theirs in zip(runs[0], other, strict=True):
            assert all(torch.equal(a, b) and a.is_cuda for a, b in zip(mine, theirs, strict=True))


SMALL = {"image_size": 8, "channels": 1, "num_classes": 10, "batch_size": 4}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Digits(**SMALL, storage="disk"),
            r"data\.storage of Digits must be one of memory, device, got 'disk'",
        ),
        (
            lambda: Cifar(root="x", **SMALL, storage="disk"),
            r"data\.storage of Cifar must be one of memory, device, got 'disk'",
        ),
        (
            lambda: Synthetic(**SMALL, storage="ram"),
            r"data\.storage of Synthetic must be one of memory, device, got 'ram'",
        ),
        (
            lambda: Folder(root="x", **SMALL, storage="ram"),
            r"data\.storage of Folder must be one of disk, memory, device, got 'ram'",
        ),
        (
            lambda: Folder(root="x", **SMALL, storage="memory", crop="random_resized"),
            r"data\.crop=random_resized needs data\.storage=disk; memory keeps one crop of each",
        ),
        (
            lambda: Digits(**SMALL, augment=Karras(), mirror=True),
            r"data\.mirror=true hides the flips that data\.augment\.x_flip=true tells .*; set one to false",
        ),
        (
            lambda: type("Numb", (Digits,), {"augmentable": False})(**SMALL, augment=Karras()),
            r"data\.augment must be null: Numb has no pixels that could be moved",
        ),
    ],
    ids=["digits", "cifar", "unknown", "folder", "random crop", "two mirrors", "latents"],
)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("kind", "storage"), [(Digits, "memory"), (Cifar, "memory"), (Synthetic, "memory"), (Folder, "disk")]
)
def test_each_kind_of_data_has_its_default(kind, storage):
    root = {} if kind in (Digits, Synthetic) else {"root": "x"}
    assert kind(**root, **SMALL).storage == storage


def test_workers_that_have_no_room_for_their_batches_are_refused(monkeypatch):
    """A worker that finds /dev/shm full is killed by the system, without a word, and what waits for it may hang."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    with pytest.raises(
        ValueError, match=r"data\.num_workers=2 hand over batches through /dev/shm, which has 1\.0 MB fr"
    ):
        _check_shared_memory(2, 260_000)
    _check_shared_memory(2, 240_000)
    _check_shared_memory(0, 10**9)
