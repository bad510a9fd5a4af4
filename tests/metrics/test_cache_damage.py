"""Damage is found: random flips and cuts in every kind of file that scores keep, a full disk, links in the way."""

import errno
import json
import logging
import random
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dit import output, tensors
from dit.files import read_json, write_json
from dit.metrics import Classifier, Features, NpzImages, Reference, alone, read_reference
from dit.metrics.cache import kept, read_tensors
from dit.metrics.classifier import SmallConvNet
from dit.metrics.moments import Gaussian
from dit.output import write_samples
from tests.metrics.test_scores_files import Rows, pictures


def reference():
    torch.manual_seed(0)
    covariance = torch.eye(8, dtype=torch.float64)
    return Reference("r", "d", Gaussian(torch.randn(8, dtype=torch.float64), covariance), None, torch.randn(20, 8), 20)


def classifier():
    torch.manual_seed(0)
    return Classifier(SmallConvNet(1, 10, 8).eval(), "d", 0.9, 10, (1, 8, 8))


def plain(thing):
    """All that is in it, to compare."""
    if isinstance(thing, torch.Tensor):
        return thing.tolist()
    if isinstance(thing, torch.nn.Module):
        return {name: tensor.tolist() for name, tensor in thing.state_dict().items()}
    return {key: plain(value) for key, value in vars(thing).items()} if hasattr(thing, "__dict__") else thing


KINDS = {
    "reference": (reference, Reference.save, Reference.load),
    "classifier": (classifier, Classifier.save, Classifier.load),
    "features": (lambda: Features(torch.eye(5), torch.eye(5)[:, :2]), Features.save, Features.load),
    "scores": (
        lambda: {"images": 20, "scores": {"frechet": {"value": 1.25, "low": None, "high": 2.0}}},
        lambda content, file: write_json(file, content, sealed=True),
        partial(read_json, sealed=True),
    ),
}


def damages(whole, count, seed=0):
    draw = random.Random(seed)
    for number in range(count):
        damaged = bytearray(whole)
        if number % 4 == 0:
            damaged = damaged[: draw.randrange(len(damaged))]
        elif number % 4 == 1:  # where the names and shapes are
            damaged[draw.randrange(min(len(damaged), 600))] ^= 1 << draw.randrange(8)
        else:
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_is_refused_and_made_again(tmp_path, kind, caplog):
    make, save, load = KINDS[kind]
    file, made = tmp_path / "a" / "file.any", make()
    file.parent.mkdir()
    save(made, file)
    whole, expected = file.read_bytes(), plain(load(file))
    assert expected == plain(made)
    for damaged in damages(whole, 40):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"file\.any"):
            load(file)
    caplog.clear()
    assert plain(kept(file, load, make, save)) == expected
    assert [(record.levelno, record.message.endswith("; it is made again")) for record in caplog.records] == [
        (logging.WARNING, True)
    ]
    assert plain(load(file)) == expected
    assert plain(kept(file, load, lambda: 1 / 0, save)) == expected
    assert list(file.parent.iterdir()) == [file]


def test_files_that_are_whole_but_others_are_refused(tmp_path):
    file = tmp_path / "x"
    save_file({"pooled": torch.zeros(2, 2)}, file)  # of a version without digests
    with pytest.raises(ValueError, match="damaged or of an earlier version: it has no digests"):
        read_tensors(file)
    Features(torch.zeros(2, 2)).save(file)
    with pytest.raises(ValueError, match="x holds no reference"):
        Reference.load(file)
    with pytest.raises(ValueError, match="x holds no classifier"):
        Classifier.load(file)
    reference().save(file)
    with pytest.raises(ValueError, match="x holds no features"):
        Features.load(file)
    facts = {"digest": "d", "held_out_accuracy": 0.9, "num_classes": 10, "shape": [1, 8, 8]}
    weights = classifier().network.state_dict()
    for change, why in {
        "num_classes=1000000": "its weights are of another network",  # 256 MB, never taken
        "num_classes=100000000": "num_classes must be a whole number from 1 to 1,048,576",
        "num_classes=0": "num_classes must be a whole number from 1",
        "held_out_accuracy=2": "held_out_accuracy must be a finite number from 0 to 1",
        "shape=[1, 8]": "not enough values",
        'shape="abc"': "shape must be a whole number",
    }.items():
        key, _, value = change.partition("=")
        tensors.save_tensors(file, weights, {"classifier": json.dumps(facts | {key: json.loads(value)})})
        with pytest.raises(ValueError, match=f"x holds no classifier: .*{why}"):
            Classifier.load(file)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_what_was_there(tmp_path, kind, monkeypatch):
    make, save, load = KINDS[kind]
    file, made = tmp_path / "file", make()
    save(made, file)
    expected = plain(load(file))

    def full(*arguments):
        file = next(path for path in arguments if hasattr(path, "with_name"))
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    monkeypatch.setattr("dit.files.Path.write_text", lambda self, *_, **__: full(self))
    with pytest.raises(ValueError, match=r"file cannot be written: No space left on device"):
        save(made, file)
    assert list(tmp_path.iterdir()) == [file]
    assert plain(load(file)) == expected


def test_the_lock_of_a_cache_is_no_link(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / ".lock").symlink_to(mine)
    with pytest.raises(ValueError, match="cache must be a folder that can be written to"), alone(cache):
        pass
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("form", ["png", "npz"])
def test_samples_replace_links_and_a_full_disk_leaves_no_half_file(tmp_path, form, monkeypatch):
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.write_text("mine")
    out.mkdir()
    names = ["grid.png", *(["samples.npz"] if form == "npz" else ["00000_3.png", "00001_4.png"])]
    for name in names:
        (out / name).symlink_to(mine)
    images = pictures(2, channels=1)
    written = write_samples(out, images, [3, 4], 1, {"seed": 0, "class_names": list("01234")}, form)
    assert [file.name for file in written] == [*names, "samples.json"]
    assert sorted(file.name for file in out.iterdir()) == sorted([*names, "samples.json"])
    assert mine.read_text() == "mine"

    def full(opened, *_, **__):
        (opened if hasattr(opened, "write") else open(opened, "wb")).write(b"half")  # noqa: SIM115
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output.np, "savez", full)
    monkeypatch.setattr("PIL.Image.Image.save", lambda _, file, **__: full(file))
    with pytest.raises(ValueError, match=r"grid\.png cannot be written: No space left on device"):
        write_samples(tmp_path / "b", images, [3, 4], 1, {"class_names": None}, form)
    assert not list((tmp_path / "b").iterdir())


def raw_npz(file, shape, content, name="arr_0", dtype="|u1", packed=zipfile.ZIP_STORED):
    """With a header that says what it likes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile(file, "a", packed) as archive:
        archive.writestr(
            f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content
        )


def some(count, size=8):
    return pictures(count, channels=1, size=size).permute(0, 2, 3, 1).numpy().tobytes()


NPZ = {
    "more images than there are": (
        [((10**12, 8, 8, 1), some(4))],
        r"arr_0 of .* is damaged: .* are 64,000,000,000,000 bytes, and it holds 256",
    ),
    "fewer": ([((3, 8, 8, 1), some(4))], "are 192 bytes, and it holds 256"),
    "negative": ([((-4, 8, 8, -1), some(4))], r"must have 1 or 3 channels, got -1"),
    "negative count": ([((-4, -8, 8, 1), some(4))], "is damaged"),
    "large": ([((1, 10**6, 10**6, 3), b"")], "pictures of 1000000x1000000, which are too large"),
    "labels": (
        [((4, 8, 8, 1), some(4)), ((10**12,), b"", "arr_1", "<i8")],
        r"arr_1 of .* must be 4 integers, one an image, got int64 \[1000000000000\]",
    ),
    "too few labels": (
        [((4, 8, 8, 1), some(4)), ((4,), b"12345678", "arr_1", "<i8")],
        r"arr_1 of .* is damaged: \[4\] int64 are 32 bytes, and it holds 8",
    ),
    "objects": ([((4, 8, 8, 1), some(4)), ((4,), b"x", "arr_1", "|O")], "must be 4 integers, one an image, got object"),
    "header": ([((4, 8, 8, "os.system('x')"), some(4))], "arr_0 of .* is damaged or no array"),
}


@pytest.mark.parametrize("case", NPZ)
def test_an_npz_that_says_more_than_it_holds_is_refused(tmp_path, case):
    arrays, why = NPZ[case]
    for array in arrays:
        raw_npz(tmp_path / "x.npz", *array)
    with pytest.raises(ValueError, match=why):
        _ = NpzImages.open(tmp_path / "x.npz").labels


def test_moments_that_would_take_the_memory_are_refused(tmp_path):
    raw_npz(tmp_path / "x.npz", (4,), bytes(32), "mu", "<f8")
    raw_npz(tmp_path / "x.npz", (10**6, 10**6), b"", "sigma", "<f8")
    with pytest.raises(ValueError, match=r"sigma of .* is damaged: .* 8,000,000,000,000 bytes, and it holds 0"):
        read_reference(tmp_path / "x.npz", Rows())


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path):
    count = 1 << 19
    raw_npz(tmp_path / "x.npz", (count, 8, 8, 1), bytes(range(64)) * count, packed=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"arr_0 of .* would unpack [\d,]+ bytes to 33,554,432, which is refused"):
        NpzImages.open(tmp_path / "x.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_one_sentence_with_its_name_or_what_it_was(tmp_path, save):
    images, file = pictures(30, channels=1) // 32 * 32, tmp_path / "x.npz"
    save(file, images.permute(0, 2, 3, 1).numpy(), np.arange(30))
    whole, refusals = file.read_bytes(), []
    for damaged in damages(whole, 40):
        file.write_bytes(damaged)
        try:
            opened = NpzImages.open(file)
            found = torch.cat(list(opened.batches(8))), opened.labels
        except ValueError as error:
            refusals.append(str(error))
        else:
            assert torch.equal(found[0], images)
            assert torch.equal(found[1], torch.arange(30))
    assert len(refusals) > 30
    assert all("x.npz" in refusal for refusal in refusals)
