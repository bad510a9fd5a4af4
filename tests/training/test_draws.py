"""Draws by number: SplitMix64 against whole numbers, the two laws, and independence of everything but the number."""

import math

import pytest
import torch

from dit.splitmix import mix
from dit.training.draws import normals, uniforms
from tests.training.tiny import digits, module

MASK = 2**64 - 1


def published(z):
    """The finaliser of SplitMix64 in Python's whole numbers, as published (Steele, Lea and Flood 2014)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_mixing_is_that_of_splitmix64():
    words = torch.randint(-(2**63), 2**63 - 1, (200,))
    assert [int(word) & MASK for word in mix(words)] == [published(int(word) & MASK) for word in words]
    # The first number of the published generator with seed 0.
    assert published(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


def distance(sample, cdf):
    """Kolmogorov and Smirnov's, in units that a true sample exceeds once in a thousand times."""
    ordered = sample.flatten().double().sort().values
    empirical = (torch.arange(len(ordered), dtype=torch.float64) + 0.5) / len(ordered)
    return float((cdf(ordered) - empirical).abs().max()) * math.sqrt(len(ordered)) / 1.95


def test_draws_follow_their_laws():
    numbers = torch.arange(1000) + 10**12
    z = normals(0, "noise", numbers, like=torch.empty(1000, 3, 9, 9))  # an odd count
    assert distance(z, torch.special.ndtr) < 1
    assert 4.2 < float(z.abs().max()) < 6.8
    assert distance(uniforms(0, "time", torch.arange(100_000)), lambda x: x) < 1
    u = uniforms(0, "time", torch.arange(100_000))
    assert 0 <= float(u.min()) < 1e-3
    assert 1 - 1e-3 < float(u.max()) < 1


def test_neighbours_in_any_direction_are_independent():
    """Correlations of 100,000 pairs: 4 / sqrt(n) is exceeded once in 16,000 times."""
    like = torch.empty(1000, 10, 10)
    z = normals(0, "noise", torch.arange(1000), like)
    flat = z.flatten(1)
    others = {
        "next picture": z.roll(1, 0),
        "next pixel": flat.roll(1, 1),
        "other half": flat.roll(50, 1),  # the cosine of the same hash
        "next seed": normals(1, "noise", torch.arange(1000), like),
        "other purpose": normals(0, "label", torch.arange(1000), like),
        "next batch": normals(0, "noise", torch.arange(1000) + 1000, like),
    }
    for name, other in others.items():
        for power in (1, 2):
            pair = torch.stack([z.flatten() ** power, other.flatten() ** power])
            assert abs(float(pair.corrcoef()[0, 1])) < 4 / math.sqrt(100_000), name


def test_a_draw_hangs_on_its_number_alone():
    like = torch.empty(8, 1, 4, 4)
    joint = normals(7, "noise", torch.arange(8), like)
    parts = [normals(7, "noise", torch.arange(8)[rows], like[rows]) for rows in (slice(0, 3), slice(3, 8))]
    assert torch.equal(joint, torch.cat(parts))
    torch.manual_seed(1)
    assert torch.equal(joint.flip(0), normals(7, "noise", torch.arange(8).flip(0), like))
    torch.set_default_dtype(torch.float64)
    assert torch.equal(joint, normals(7, "noise", torch.arange(8), torch.empty(8, 1, 4, 4, dtype=torch.float32)))


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_what_a_step_draws_is_the_same_however_the_batch_is_shared(dropout):
    model = module(digits(), dropout=dropout)
    x0, numbers = torch.zeros(64, 1, 8, 8), 64 * 5 + torch.arange(64)
    joint = model.draw(numbers, 64, x0)
    for shares in (2, 8):
        parts = [model.draw(rows, 64, x0[: len(rows)]) for rows in numbers.chunk(shares)]
        for name in ("t", "eps"):
            # Vectorised and single elements differ in the last bit of a logarithm.
            pieces = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(getattr(joint, name), pieces, rtol=1e-6, atol=1e-6)
        assert torch.equal(joint.dropped["class"], torch.cat([part.dropped["class"] for part in parts]))
    many = model.draw(torch.arange(20_000), 64, torch.zeros(20_000, 1, 1, 1)).dropped["class"].float().mean()
    assert abs(float(many) - dropout) <= 5 * (dropout * (1 - dropout) / 20_000) ** 0.5
    other = module(digits(), seed=1, dropout=dropout).draw(numbers, 64, x0)
    assert not torch.equal(joint[0], other[0])
    assert not torch.equal(joint[1], other[1])
