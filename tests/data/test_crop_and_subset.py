"""How a picture becomes square, which pictures are kept, and what happens to files that cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image

from data import Digits, Folder, Synthetic
from data.crop import area, center, random_resized
from data.order import EndlessOrder, Pick
from dit.codec import Pixels
from tests.data.test_data import tree  # noqa: F401


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ramp(width, height):
    """Red tells the column, green the row."""
    columns = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    rows = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))


@pytest.mark.parametrize("crop", [center, area, random_resized])
@pytest.mark.parametrize("size", [(16, 16), (40, 17), (17, 90), (256, 64), (5, 9)])
def test_every_crop_makes_a_square(crop, size):
    square = crop(picture(*size), 16, 7)
    assert square.shape == (3, 16, 16)
    assert square.dtype == torch.uint8


def test_area_crop_is_exact_box_averages_where_the_size_divides():
    """64 to 16 is two halvings and no resizing after: the mean of 4 x 4, to four roundings, two a halving."""
    source = picture(64, 64)
    pixels = torch.from_numpy(np.array(source)).permute(2, 0, 1).double()
    means = pixels.unflatten(2, (16, 4)).unflatten(1, (16, 4)).mean((2, 4))
    assert (area(source, 16).double() - means).abs().max() <= 2


@pytest.mark.parametrize("crop", [center, area])
def test_the_centre_is_cropped(crop):
    """Of a picture twice as wide as high the middle half remains."""
    square = crop(ramp(64, 32), 32).double()
    assert square[0].min() == pytest.approx(64, abs=3)
    assert square[0].max() == pytest.approx(191, abs=3)
    assert (square[1].min(), square[1].max()) == (0, 255)


def test_area_crop_is_that_of_the_references():
    """Told once more for one size: 100 x 75, 50 x 37, 25 x 18, which is no more twice 16, then bicubic to 22 x 16."""
    source = ramp(100, 75)
    halved = source.resize((50, 37), Image.Resampling.BOX).resize((25, 18), Image.Resampling.BOX)
    small = halved.resize((22, 16), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(small.crop((3, 0, 19, 16)))).permute(2, 0, 1)
    assert torch.equal(area(source, 16), expected)


def test_random_crops_depend_on_their_draw_alone_and_differ():
    source = ramp(90, 60)
    some = [random_resized(source, 16, draw) for draw in range(200)]
    assert torch.equal(some[3], random_resized(source, 16, 3))
    assert len({tuple(square.flatten().tolist()) for square in some}) > 190
    assert torch.equal(random_resized(source, 16), center(source, 16))
    # Shares of the picture: the product of what is seen of columns and rows.
    spans = [((s[0].max().double() - s[0].min()) / 255, (s[1].max().double() - s[1].min()) / 255) for s in some]
    shares = torch.tensor([float(a * b) for a, b in spans])
    assert shares.min() < 0.2
    assert shares.max() > 0.7  # 16 pixels of the whole span 0.88 of it


def test_training_draws_and_validation_does_not(tree):  # noqa: F811
    data = Folder(root=str(tree), image_size=16, channels=3, num_classes=3, batch_size=4, crop="random_resized")
    data.setup()
    still = data.train.__getitems__([Pick(0), Pick(0, False, 1), Pick(0, False, 2), Pick(0, False, 1)]).images
    assert not torch.equal(still[1], still[2])
    assert torch.equal(still[1], still[3])
    assert torch.equal(still[0], data.train.read(0))
    picks = [pick for batch in data.val_dataloader().batch_sampler for pick in batch]
    assert all(pick.draw is None for pick in picks)


def test_pictures_in_memory_are_mirrored_where_picked_so():
    train = digits().train
    before = train.pixels.clone()
    batch = train.__getitems__([Pick(4, True), Pick(4), Pick(9, True)])
    assert torch.equal(batch.images, torch.stack([train.read(4).flip(-1), train.read(4), train.read(9).flip(-1)]))
    assert batch.index.tolist() == [4, 4, 9]
    assert torch.equal(batch.labels, train.labels[[4, 4, 9]])
    assert torch.equal(train.pixels, before)


def test_encoding_leaves_its_input_alone():
    pixels = torch.arange(256.0).reshape(1, 1, 16, 16)
    before = pixels.clone()
    assert Pixels().encode(pixels).aminmax() == (-1, 1)
    assert torch.equal(pixels, before)


def test_draws_are_a_function_of_seed_and_place():
    def draws(**changes):
        order = EndlessOrder(
            **{**{"pictures": 10, "batch_size": 5, "seed": 0, "rank": 0, "world_size": 1, "mirror": True}, **changes}
        )
        iterator = iter(order)
        return [next(iterator) for _ in range(6)]

    assert draws() == draws()
    assert draws(start=2)[:4] == draws()[2:]
    assert draws(seed=1) != draws()
    assert len({pick.draw for batch in draws() for pick in batch}) == 30


def digits(**changes):
    data = Digits(**{"image_size": 8, "channels": 1, "num_classes": 10, "batch_size": 16, **changes})
    data.setup()
    return data


def test_some_classes_become_the_labels_in_their_order():
    whole, some = digits(), digits(classes=[7, "3"], num_classes=2)
    assert some.class_names == some.facts["class_names"] == ["7", "3"]
    for mine, theirs in ((0, 7), (1, 3)):
        pictures = [some.train.read(i) for i in range(len(some.train)) if some.train.labels[i] == mine]
        expected = [whole.train.read(i) for i in range(len(whole.train)) if whole.train.labels[i] == theirs]
        assert all(torch.equal(a, b) for a, b in zip(pictures, expected, strict=True))
    assert set(some.validation.labels.tolist()) == {0, 1}
    assert len(some.validation) == int(((whole.validation.labels == 7) | (whole.validation.labels == 3)).sum())


def test_a_fraction_is_of_each_class_and_part_of_a_larger_one():
    whole, tenth, fifth = digits(), digits(fraction=0.1), digits(fraction=0.2)
    for label in range(10):
        count = int((whole.train.labels == label).sum())
        assert int((tenth.train.labels == label).sum()) == -(-count // 10)
    small, large = ({bytes(image.flatten().tolist()) for image in part.train.tensors()[0]} for part in (tenth, fifth))
    assert small < large
    assert len(tenth.validation) == len(whole.validation)
    assert len(digits(fraction=1e-9).train) == 10  # one of each


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["3", "x"]}, r"data\.classes must be different ones of 0, 1, .*; got 3, x"),
        ({"classes": ["3", "3"]}, r"data\.classes must be different ones of 0, 1, .*; got 3, 3"),
        ({"classes": []}, r"data\.classes must be different ones of .*; got none"),
        ({"classes": ["3"]}, r"data\.num_classes=10, but the pictures have 1 classes"),
        ({"fraction": 0}, r"data\.fraction must be above 0 and at most 1, got 0"),
        ({"fraction": "half"}, r"data\.fraction must be above 0 and at most 1, got 'half'"),
    ],
)
def test_subsets_that_are_none_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        digits(**changes)


def test_synthetic_pictures_are_the_same_every_time():
    def made():
        data = Synthetic(pictures=50, image_size=4, channels=3, num_classes=5, batch_size=10)
        data.setup()
        return data

    a, b = made(), made()
    assert torch.equal(a.train.pixels, b.train.pixels)
    assert len(a.train) == 50
    assert not torch.equal(a.train.pixels[:5], a.validation.pixels[:5])
    assert a.class_names == ["0", "1", "2", "3", "4"]


def folder(root, **changes):
    return Folder(**{"root": str(root), "image_size": 16, "channels": 3, "num_classes": 3, "batch_size": 4, **changes})


def test_unreadable_files_are_left_out_and_counted_when_asked(tree):  # noqa: F811
    whole = folder(tree)
    whole.setup()
    expected = [whole.train.read(i) for i in range(12) if i not in (1, 8)]
    bad = [whole.train._files[i] for i in (1, 8)]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:60])
    with pytest.raises(ValueError, match=f"cannot read the picture {bad[0]}"):
        folder(tree).prepare_data()
    data = folder(tree, on_error="skip")
    data.prepare_data()
    with pytest.warns(UserWarning, match=rf"on_error=skip leaves out 2 of 12 pictures of .*train: .*{bad[0].name}.*; "):
        data.setup()
    assert len(data.train) == len(data.train.labels) == 10
    assert all(torch.equal(data.train.read(i), expected[i]) for i in range(10))


def test_a_class_without_one_readable_picture_is_refused(tree):  # noqa: F811
    for file in (tree / "train" / "bee").iterdir():
        file.write_bytes(b"not a picture")
    with (
        pytest.raises(ValueError, match=r"has no pictures in train/bee"),
        pytest.warns(UserWarning, match="leaves out 4 of 12 .*; and 1 more"),
    ):
        folder(tree, on_error="skip").setup()


@pytest.mark.parametrize("key", ["crop", "on_error"])
def test_unknown_choices_are_refused(tree, key):  # noqa: F811
    with pytest.raises(ValueError, match=rf"data\.{key} must be one of .*, got 'never'"):
        folder(tree, **{key: "never"})
