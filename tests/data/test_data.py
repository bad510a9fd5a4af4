"""Pictures: what a module tells, what it refuses, and an order that depends on (seed, batch, rank) alone."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from data import Cifar, Digits, Folder, folder_classes
from data.order import EndlessOrder, Pick

DIGITS = {"image_size": 8, "channels": 1, "num_classes": 10, "batch_size": 64}


def first(count, **changes):
    arguments = {"pictures": 10, "batch_size": 4, "seed": 0, "rank": 0, "world_size": 1, "mirror": True}
    return list(islice(EndlessOrder(**{**arguments, **changes}), count))


def test_an_epoch_shows_every_picture_once_and_the_next_is_shuffled_anew():
    flat = [index for batch in first(10) for index, _, _ in batch]
    epochs = [flat[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("start", [1, 2, 7])
def test_a_resumed_order_goes_on_where_it_stopped(start):
    assert first(3, start=start) == first(start + 3)[start:]


def test_ranks_share_the_global_batch():
    whole = first(6)
    halves = [first(6, rank=rank, world_size=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_order_depends_on_the_seed_and_mirrors_half():
    assert first(3, seed=1) != first(3)
    coins = [mirrored for batch in first(500) for _, mirrored, _ in batch]
    assert 0.45 < sum(coins) / len(coins) < 0.55
    assert not any(mirrored for batch in first(20, mirror=False) for _, mirrored, _ in batch)


def test_digits_split_is_fixed_and_stratified():
    data, again = Digits(**DIGITS), Digits(**DIGITS, seed=9)
    for module in (data, again):
        module.setup()
    assert (len(data.train), len(data.validation)) == (1437, 360)
    assert torch.equal(data.train.pixels, again.train.pixels)
    shares = [torch.bincount(split.labels, minlength=10) / len(split) for split in (data.train, data.validation)]
    assert (shares[0] - shares[1]).abs().max() < 0.003
    both = torch.cat([data.train.pixels, data.validation.pixels]).flatten(1)
    assert (both.min(), both.max()) == (0, 255)
    assert data.facts["class_names"] == list("0123456789")


def test_declared_facts_are_checked_against_the_pictures():
    with pytest.raises(ValueError, match=r"data\.num_classes=7, but the pictures have 10 classes"):
        Digits(**{**DIGITS, "num_classes": 7}).setup()
    with pytest.raises(ValueError, match=r"data\.image_size=16, but the pictures have shape \(1, 8, 8\)"):
        Digits(**{**DIGITS, "image_size": 16}).setup()
    with pytest.raises(ValueError, match=r"data\.batch_size must be a whole number of at least 1, got 0"):
        Digits(**{**DIGITS, "batch_size": 0})


def test_validation_pictures_are_the_same_every_time():
    data = Digits(**DIGITS, validation_images=50)
    data.setup()
    batches = [torch.cat([b.index for b in data.val_dataloader()]) for _ in range(2)]
    assert torch.equal(*batches)
    assert len(batches[0].unique()) == 50


@pytest.fixture
def tree(tmp_path):
    """Three classes of small pictures of several shapes, modes and formats, as a user's folder has them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("ant", "bee", "cat")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (20 + 4 * i, 30, 3), dtype=np.uint8)
                mode, ending = (("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("P", "png"))[(label + i) % 4]
                Image.fromarray(pixels).convert(mode).save(folder / f"{i}.{ending}")
            (folder / "notes.txt").write_text("not a picture")
    return tmp_path


def test_a_folder_becomes_square_pictures_with_labels_by_name(tree):
    data = Folder(root=str(tree), image_size=16, channels=3, num_classes=3, batch_size=4, mirror=True)
    data.setup()
    assert data.class_names == folder_classes(tree) == ["ant", "bee", "cat"]
    images, labels = data.train.tensors()
    assert images.shape == (12, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(data.validation) == 6
    mirrored = data.train.__getitems__([Pick(5, True), Pick(5, False)]).images
    assert torch.equal(mirrored[0], mirrored[1].flip(-1))


def test_pictures_of_the_right_size_are_not_touched(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / split / name / "x.png")
    data = Folder(root=str(tmp_path), image_size=16, channels=3, num_classes=2, batch_size=1)
    data.setup()
    assert torch.equal(data.train.read(0), torch.from_numpy(pixels).permute(2, 0, 1))


def folder(root, **changes):
    data = Folder(**{"root": str(root), "image_size": 16, "channels": 3, "num_classes": 3, "batch_size": 4, **changes})
    data.setup()
    return data


def test_bad_folders_are_refused_by_name(tree, tmp_path_factory):
    with pytest.raises(ValueError, match=r"data\.root=.*nowhere must be a folder with train/<class>/ inside"):
        folder(tree / "nowhere")
    with pytest.raises(ValueError, match=r"data\.num_classes=4, but the pictures have 3 classes"):
        folder(tree, num_classes=4)
    with pytest.raises(ValueError, match=r"data\.channels of a folder must be 1 .* got 4"):
        folder(tree, channels=4)

    one = tmp_path_factory.mktemp("one")
    (one / "train").mkdir()
    with pytest.raises(ValueError, match=r"or pictures; there is nothing of the kind in .*train"):
        folder(one)

    for file in (tree / "train" / "bee").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="has no pictures in train/bee"):
        folder(tree)


def names(split):
    return sorted(str(file.relative_to(split.root)) for file in split.files())


@pytest.mark.filterwarnings("ignore:.*has no validation split")
def test_without_a_validation_split_a_tenth_of_each_class_is_held_out_and_said(tree, tmp_path_factory):
    """The same files on every machine, and most of them still where pictures are added."""
    pixels, flat = np.zeros((16, 16, 3), dtype=np.uint8), tmp_path_factory.mktemp("flat")
    for name in ("a", "b"):
        (flat / name).mkdir()
        for number in range(40):
            Image.fromarray(pixels + number).save(flat / name / f"{number}.png")
    with pytest.warns(
        UserWarning, match=r"has no validation split .*: 8 of 80 pictures are held out for it, a tenth of"
    ):
        data = folder(flat, num_classes=2)
    held = names(data.validation)
    assert data.validation.labels.bincount().tolist() == [4, 4]
    assert data.train.labels.bincount().tolist() == [36, 36]
    assert not set(held) & set(names(data.train))
    assert held == names(folder(flat, num_classes=2).validation)
    Image.fromarray(pixels + 99).save(flat / "a" / "new.png")
    assert len(set(held) & set(names(folder(flat, num_classes=2).validation))) >= 7
    (tree / "val").rename(tree / "elsewhere")
    assert folder(tree).validation.labels.bincount().tolist() == [1, 1, 1]  # of 4 each


@pytest.mark.filterwarnings("ignore:.*has no validation split")
@pytest.mark.parametrize("inside", ["train/flower", "train", "", "flower"])
def test_pictures_of_one_kind_are_one_class(tmp_path, inside):
    (tmp_path / "x" / inside).mkdir(parents=True)
    for number in range(20):
        Image.fromarray(np.full((16, 16, 3), number, dtype=np.uint8)).save(tmp_path / "x" / inside / f"{number}.jpg")
    data = folder(tmp_path / "x", num_classes=1)
    assert data.class_names == ["flower" if "flower" in inside else "x"]
    assert (len(data.train), len(data.validation)) == (18, 2)
    if inside.startswith("train"):
        (tmp_path / "x" / inside.replace("train", "val")).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "x" / inside.replace("train", "val") / "1.png")
        data = folder(tmp_path / "x", num_classes=1)
        assert (len(data.train), len(data.validation)) == (20, 1)


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_an_unreadable_picture_is_named(tree, content):
    broken = tree / "train" / "cat" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2] if content is None else content)
    data = folder(tree)
    index = next(i for i, file in enumerate(data.train._files) if file == broken)
    with pytest.raises(ValueError, match=r"cannot read the picture .*cat/0\.png"):
        data.train.read(index)
    with pytest.raises(ValueError, match=r"cannot read the picture .*cat/0\.png"):
        data.prepare_data()


def test_pictures_are_turned_as_their_camera_says(tree):
    file = tree / "train" / "ant" / "0.jpg"
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:4] = 255  # a white top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise: the top becomes the right
    Image.fromarray(pixels).save(file, exif=exif, quality=95)
    shown = folder(tree).train.read(0)
    assert shown[..., -3:].float().mean() > 200
    assert shown[..., :12].float().mean() < 50


def test_more_than_eight_bits_are_refused_rather_than_clipped(tree):
    file = tree / "train" / "ant" / "deep.png"
    Image.fromarray(np.linspace(0, 60000, 256, dtype=np.uint16).reshape(16, 16)).save(file)
    with pytest.raises(ValueError, match=r"cannot read the picture .*deep\.png: mode I;16 has more than 8 bits"):
        folder(tree).prepare_data()


def test_whole_pictures_pass_the_check_also_with_bytes_behind_their_end(tree):
    file = tree / "train" / "ant" / "0.jpg"
    file.write_bytes(file.read_bytes() + b"left behind by some camera" * 3)
    folder(tree).prepare_data()


def test_cifar_class_names_are_sorted_as_the_labels_are():
    names = Cifar(
        root="unused", variant="cifar100", num_classes=100, image_size=32, channels=3, batch_size=8
    ).class_names
    assert len(names) == 100
    assert names == sorted(names)


def cifar_archive(root, count=20):
    """CIFAR-10 in its own file format, with random pixels: the real loading code, nothing downloaded."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        content = {
            "data": rng.integers(0, 255, (count, 3072), dtype=np.uint8),
            "labels": rng.integers(0, 10, count).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["x"] * 10}))


def test_cifar_reads_its_own_format(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a, **k: True)
    cifar_archive(tmp_path)
    data = Cifar(root=str(tmp_path), num_classes=10, image_size=32, channels=3, batch_size=8, download=False)
    data.prepare_data()
    data.setup()
    assert (len(data.train), len(data.validation)) == (100, 20)
    assert data.train.pixels.shape == (100, 3, 32, 32)
    assert data.class_names[3] == "cat"
    settings = {"num_classes": 2, "image_size": 32, "channels": 3, "batch_size": 8, "download": False}
    some = Cifar(root=str(tmp_path), classes=["dog", "cat"], **settings)
    some.setup()
    assert len(some.train) == sum(label in (3, 5) for label in data.train.labels.tolist())
    first = int((data.train.labels == 5).nonzero()[0])
    assert torch.equal(some.train.read(0), data.train.read(first))


def test_missing_cifar_says_where_it_was_sought(tmp_path):
    data = Cifar(root=str(tmp_path), num_classes=10, image_size=32, channels=3, batch_size=8, download=False)
    with pytest.raises(ValueError, match=r"data\.root=.* holds no complete cifar10"):
        data.prepare_data()
    with pytest.raises(ValueError, match=r"data\.variant of CIFAR must be one of cifar10, cifar100, got 'cifar20'"):
        Cifar(root=str(tmp_path), variant="cifar20", num_classes=20, image_size=32, channels=3, batch_size=8)
