"""Pictures that scores are computed of: in batches, labelled or not, with a digest, and what is refused."""

import pytest
import torch
from PIL import Image

from data import Digits, real_of_folder, real_of_split
from data import real as module


def random(count, channels=3, height=6, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def write(folder, images, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start):
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(folder / f"{number:03d}.png")
    return folder


def test_a_folder_is_read_as_it_is_in_batches_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 4)
    for channels in (1, 3):
        images = random(10, channels)
        real = real_of_folder(write(tmp_path / str(channels), images))
        assert (real.name, len(real), real.shape, real.labels) == (str(channels), 10, (channels, 6, 5), None)
        assert [len(batch) for batch in real.batches()] == [4, 4, 2]
        assert torch.equal(torch.cat(list(real.batches())), images)


def test_subfolders_are_classes_where_they_bear_their_names(tmp_path):
    images, names = random(6), ["cat", "dog", "eel"]
    for number, name in enumerate(["eel", "cat", "eel"]):
        write(tmp_path / "a" / name, images[2 * number : 2 * number + 2], 2 * number)
    real = real_of_folder(tmp_path / "a", names)
    assert real.tensors()[1].tolist() == [0, 0, 2, 2, 2, 2]
    assert torch.equal(real.tensors()[0], images[[2, 3, 0, 1, 4, 5]])
    assert real_of_folder(tmp_path / "a").labels is None
    assert real_of_folder(tmp_path / "a", ["cat", "dog"]).labels is None  # eel is no class: these are no labels
    write(tmp_path / "a", random(1, seed=1))
    assert real_of_folder(tmp_path / "a", names).labels is None  # and one lies in none
    (tmp_path / "a" / "000.png").unlink()
    (tmp_path / "a" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"a/dog holds no pictures of its class: fill it or remove it"):
        real_of_folder(tmp_path / "a", names)


def test_the_digest_is_of_pictures_labels_and_their_number_and_not_of_where_they_lie(tmp_path):
    images = random(4)
    first = real_of_folder(write(tmp_path / "a", images)).digest
    assert real_of_folder(write(tmp_path / "b", images)).digest == first
    assert real_of_folder(write(tmp_path / "c", images[:3])).digest != first
    images[0, 0, 0, 0] ^= 1
    assert real_of_folder(write(tmp_path / "d", images)).digest != first
    write(tmp_path / "e" / "x", images[:2])
    write(tmp_path / "e" / "y", images[2:])
    told = {real_of_folder(tmp_path / "e", classes).digest for classes in ([], ["x", "y"], ["y", "x"])}
    assert len(told) == 3


def test_of_a_split_some_are_always_the_same():
    data = Digits(image_size=8, channels=1, num_classes=10, batch_size=8)
    data.setup()
    few, again = (real_of_split("digits", data.validation, 20) for _ in range(2))
    assert (len(few), few.shape) == (20, (1, 8, 8))
    assert few.digest == again.digest != real_of_split("digits", data.validation, 21).digest
    images, labels = few.tensors()
    assert torch.equal(images, again.tensors()[0])
    for image, label in zip(images, labels, strict=True):
        found = (data.validation.pixels == image).flatten(1).all(1)
        assert int(label) in data.validation.labels[found].tolist()
    assert len(real_of_split("digits", data.validation, 50_000)) == len(data.validation)


def test_what_is_no_set_of_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere must be a folder of pictures or an \.npz file, and does not exist"):
        real_of_folder(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").touch()
    with pytest.raises(ValueError, match="none holds no pictures"):
        real_of_folder(tmp_path / "none")
    large = write(tmp_path / "large", random(3))
    write(large, random(1, height=7), 3)
    with pytest.raises(ValueError, match=r"003\.png is 5x7 colour, but .*000\.png is 5x6 colour: all pictures must"):
        real_of_folder(large)
    grey = write(tmp_path / "grey", random(3))
    write(grey, random(1, channels=1), 3)
    with pytest.raises(ValueError, match=r"003\.png is 5x6 grey, but .*000\.png is 5x6 colour"):
        real_of_folder(grey)
    torn = write(tmp_path / "torn", random(3))
    (torn / "001.png").write_bytes((torn / "001.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cannot read the picture .*001\.png"):
        list(real_of_folder(torn).batches())
    blank = write(tmp_path / "blank", random(3))
    Image.new("RGB", (5, 6), (1, 2, 3)).save(blank / "001.png")
    with pytest.raises(ValueError, match=r"001\.png is constant, which no score takes: take it out or write it again"):
        list(real_of_folder(blank).batches())
