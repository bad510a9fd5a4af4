"""Augmentation: numbers that depend on a picture's draw alone, closed forms of each change, and bits that stay."""

import math

import pytest
import torch
from scipy import stats

from data import Karras
from data.draws import normals, uniforms

MASK = (1 << 64) - 1


def mix(z):
    """The finalizer of SplitMix64 in Python's integers, which do not wrap."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def plain_uniform(draw, column):
    return (mix((mix(draw) + (column + 1) * 0x9E3779B97F4A7C15) & MASK) >> 40) / 2**24


def random_draws(count, seed=0):
    return torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed))


def test_uniforms_are_the_hash_told_in_unbounded_integers():
    draws = torch.cat([torch.tensor([0, 1, 2, 2**62 - 1, 2**63 - 1, -1]), random_draws(50)])
    expected = [[plain_uniform(draw & MASK, column) for column in range(7)] for draw in draws.tolist()]
    assert uniforms(draws, 7).tolist() == expected


def test_the_hash_is_splitmix64():
    """The first numbers of its stream for the seed 1234567, as its authors' C code prints them."""
    stream = [mix((1234567 + k * 0x9E3779B97F4A7C15) & MASK) for k in (1, 2, 3)]
    assert stream == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniforms_depend_on_their_draw_alone():
    draws, order = random_draws(64), torch.randperm(64)
    whole = uniforms(draws, 5)
    assert torch.equal(uniforms(draws[order], 5), whole[order])
    assert torch.equal(uniforms(draws[7:8], 5), whole[7:8])
    assert torch.equal(uniforms(draws, 3), whole[:, :3])


@pytest.mark.parametrize("draws", [random_draws(20_000), torch.arange(20_000)], ids=["random draws", "a counter"])
def test_uniforms_are_uniform_and_independent(draws):
    """Kolmogorov and Smirnov for each column and each difference to a neighbour, correlations within 5 deviations."""
    u = uniforms(draws, 6).double()
    assert ((u >= 0) & (u < 1)).all()
    for column in u.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-4
        assert stats.kstest(((column[1:] - column[:-1]) % 1).numpy(), "uniform").pvalue > 1e-4
    for a, b in zip(u.T[:-1], u.T[1:], strict=True):
        assert stats.kstest(((a - b) % 1).numpy(), "uniform").pvalue > 1e-4
    off = torch.corrcoef(u.T) - torch.eye(6)
    assert off.abs().max() < 5 / math.sqrt(len(draws))


def test_normals_are_standard_and_independent():
    z = normals(uniforms(random_draws(20_000), 4)).double()
    for column in z.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-4
    assert (torch.corrcoef(z.T) - torch.eye(4)).abs().max() < 5 / math.sqrt(20_000)
    assert (torch.corrcoef(z.T.square()) - torch.eye(4)).abs().max() < 5 / math.sqrt(20_000)
    extremes = normals(torch.tensor([[0.0, 0.25], [1 - 2**-24, 0.0]]))
    assert extremes.tolist() == [[0.0, 0.0], [pytest.approx(math.sqrt(48 * math.log(2)), rel=1e-6), 0.0]]


def pictures(count=6, side=8, channels=3):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(3))


def condition(count=6, **columns):
    """What `transform` is told, by name."""
    names = ("x_flip", "y_flip", "scale", "cos", "sin", "stretch_x", "stretch_y", "right", "down")
    told = torch.zeros(count, 9)
    for name, value in columns.items():
        told[:, names.index(name)] = value
    return told


@pytest.mark.parametrize("side", [8, 21, 28, 33])
def test_pictures_that_are_not_moved_keep_every_bit(side):
    """At sides that are no power of two a resampling at the points themselves would not."""
    x, karras = pictures(side=side), Karras()
    assert torch.equal(karras.transform(x, condition()), x)
    assert torch.equal(karras.transform(x, condition(x_flip=1)), x.flip(-1))
    assert torch.equal(karras.transform(x, condition(y_flip=1)), x.flip(-2))
    assert torch.equal(karras.transform(x, condition(x_flip=1, y_flip=1)), x.flip(-1, -2))
    some = condition(scale=torch.tensor([0, 1.0, 0, 0, -1, 0]), x_flip=torch.tensor([0, 0, 0, 1.0, 1, 0]))
    changed = karras.transform(x, some)
    assert torch.equal(changed[[0, 2, 5]], x[[0, 2, 5]])
    assert torch.equal(changed[3], x[3].flip(-1))
    assert all(not torch.equal(changed[i], x[i]) for i in (1, 4))


def test_input_is_left_alone():
    x = pictures(50)
    before = x.clone()
    Karras(probability=1)(x, random_draws(50))
    assert torch.equal(x, before)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("side", [8, 9, 32])
def test_quarter_turns_are_those_of_rot90(quarters, side):
    x, angle = pictures(side=side), quarters * math.pi / 2
    turned = Karras().transform(x, condition(cos=math.cos(angle) - 1, sin=math.sin(angle)))
    torch.testing.assert_close(turned, x.rot90(quarters, (-2, -1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 1), (-3, 2), (5, -8)])
def test_translations_by_whole_pixels_move_and_reflect(right, down):
    x, side = pictures(), 8
    moved = Karras(translation=0.125).transform(x, condition(right=right, down=down))  # 0.125 is a pixel
    reflected = torch.cat([x, x.flip(-1)], dim=-1)
    reflected = torch.cat([reflected, reflected.flip(-2)], dim=-2)  # as the plane repeats it
    expected = reflected.roll((down, right), (-2, -1))[..., :side, :side]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


def waves(side=64):
    """Smooth, and different in each direction: what a resampled picture must be at any point, to the 0.06 pixels by
    which this cubic misses a slope."""
    centre = torch.arange(side) * 2 / side + 1 / side - 1
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return lambda u, v: torch.sin(2 * u + 0.3) + 0.7 * torch.cos(1.5 * v) + 0.5 * u * v, x, y


@pytest.mark.parametrize(
    ("told", "source"),
    [
        # A picture twice as large shows at (x, y) what was at (x/2, y/2).
        ({"scale": 5.0}, lambda x, y: (x / 2, y / 2)),
        # Stretched along an axis at 0: twice as wide, half as high; at a quarter turn (told as half a circle) likewise.
        ({"stretch_x": 5.0}, lambda x, y: (x / 2, 2 * y)),
        ({"stretch_x": -5.0}, lambda x, y: (2 * x, y / 2)),
        # Along the diagonal: x + y halves, x - y doubles.
        ({"stretch_y": 5.0}, lambda x, y: ((x + y) / 4 + (x - y), (x + y) / 4 - (x - y))),
        # Turned to the left, then stretched: what was above is then twice as far to the left.
        ({"cos": -1.0, "sin": 1.0, "stretch_x": 5.0}, lambda x, y: (-2 * y, x / 2)),
        # First scaled, then turned to the left, then moved by a quarter of the side to the right.
        ({"scale": 5.0, "cos": -1.0, "sin": 1.0, "right": 2.0}, lambda x, y: (-y / 2, (x - 0.5) / 2)),
    ],
)
def test_smooth_pictures_are_seen_where_they_should_be(told, source):
    picture, x, y = waves()
    before = picture(x, y)[None, None]
    after = Karras(scale=0.2, anisotropy=0.2, translation=0.125).transform(before, condition(1, **told))[0, 0]
    u, v = source(x, y)
    inside = (u.abs() < 0.95) & (v.abs() < 0.95)  # beyond it is reflected
    assert inside.float().mean() > 0.2
    torch.testing.assert_close(after[inside], picture(u, v)[inside], rtol=0, atol=6e-3)


def test_a_stretch_is_told_once():
    """An axis and the same axis turned by half a circle are one change, and one condition."""
    draws = random_draws(4000)
    told = Karras(probability=1, scale=0, rotation=0, translation=0, x_flip=False, y_flip=False).condition(draws)
    strength = told[:, 5:7].norm(dim=1)
    assert stats.kstest(strength.numpy(), "halfnorm").pvalue > 1e-4
    angle = torch.atan2(told[:, 6], told[:, 5])
    assert stats.kstest((angle / (2 * math.pi) % 1).numpy(), "uniform").pvalue > 1e-4


def test_each_change_comes_as_often_as_it_should():
    told = Karras(probability=0.12).condition(random_draws(40_000))
    rates = {
        "x_flip": (told[:, 0], 0.5),
        "y_flip": (told[:, 1], 0.06),
        "scale": (told[:, 2], 0.12),
        "rotation": (told[:, 4], 0.12),
        "stretch": (told[:, 5], 0.12),
        "translation": (told[:, 7], 0.12),
    }
    for name, (column, rate) in rates.items():
        found = float((column != 0).float().mean())
        assert found == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / 40_000)), name
    assert torch.equal(told[:, 7] != 0, told[:, 8] != 0)
    moved = (told[:, 2:] != 0).any(1).float().mean()
    assert float(moved) == pytest.approx(1 - 0.88**4, abs=5 * math.sqrt(0.4 * 0.6 / 40_000))
    assert set(told[:, :2].unique().tolist()) == {0.0, 1.0}
    turned = told[told[:, 4] != 0]
    assert (
        stats.kstest((torch.atan2(turned[:, 4], turned[:, 3] + 1) / (2 * math.pi) % 1).numpy(), "uniform").pvalue > 1e-4
    )
    for column in (2, 7, 8):
        assert stats.kstest(told[told[:, column] != 0, column].numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize(
    ("off", "columns"),
    [
        ({"x_flip": False}, [0]),
        ({"y_flip": False}, [1]),
        ({"scale": 0}, [2]),
        ({"rotation": 0}, [3, 4]),
        ({"anisotropy": 0}, [5, 6]),
        ({"translation": 0}, [7, 8]),
    ],
)
def test_a_change_that_is_off_is_never_told_and_leaves_the_others(off, columns):
    draws = random_draws(500)
    all_on, without = Karras(probability=1).condition(draws), Karras(probability=1, **off).condition(draws)
    kept = [column for column in range(9) if column not in columns]
    assert (without[:, columns] == 0).all()
    assert torch.equal(without[:, kept], all_on[:, kept])


def test_nothing_happens_where_nothing_is_on():
    x = pictures(100)
    same, told = Karras(probability=0, x_flip=False)(x, random_draws(100))
    assert torch.equal(same, x)
    assert not told.any()


def test_a_part_of_the_circle_bounds_the_rotation():
    told = Karras(probability=1, rotation=0.25).condition(random_draws(2000))
    angle = torch.atan2(told[:, 4], told[:, 3] + 1).abs()
    assert angle.max() <= math.pi / 4 + 1e-6
    assert angle.max() > 0.98 * math.pi / 4


def test_a_picture_is_changed_the_same_way_in_every_batch():
    x, draws, karras = pictures(40, side=32), random_draws(40), Karras(probability=0.5)
    images, told = karras(x, draws)
    order = torch.randperm(40)
    for rows in (order, order[:7], order[7:8]):
        again, told_again = karras(x[rows], draws[rows])
        assert torch.equal(again, images[rows])
        assert torch.equal(told_again, told[rows])


@pytest.mark.gpu
def test_numbers_are_the_same_on_a_gpu():
    draws, x, karras = random_draws(1000), pictures(1000), Karras(probability=0.5)
    assert torch.equal(uniforms(draws.cuda(), 13).cpu(), uniforms(draws, 13))
    images, told = karras(x, draws)
    theirs, theirs_told = karras(x.cuda(), draws.cuda())
    torch.testing.assert_close(theirs_told.cpu(), told, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs.cpu(), images, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 8}, r"data\.augment\.dim must be 9, as many numbers tell what was done, got 8"),
        ({"probability": 1.5}, r"data\.augment\.probability must be in \[0, 1\], got 1\.5"),
        ({"probability": True}, r"data\.augment\.probability must be in \[0, 1\], got True"),
        ({"rotation": -0.5}, r"data\.augment\.rotation must be in \[0, 1\], got -0\.5"),
        ({"scale": "much"}, r"data\.augment\.scale must be in \[0, 1\], got 'much'"),
        ({"x_flip": 0.5}, r"data\.augment\.x_flip must be true or false, got 0\.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Karras(**changes)
