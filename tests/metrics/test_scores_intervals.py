"""95 % intervals hold the expectation of a score 95 times in 100, counted on data that can be drawn again."""

import pytest
import torch

from dit.metrics.features import Features
from dit.metrics.frechet import frechet
from dit.metrics.intervals import bootstrap, proportion
from dit.metrics.moments import Moments
from dit.metrics.reference import Reference
from dit.metrics.scores import score

DRAWN = ("frechet", "kid", "inception_score", "precision", "density", "recall")
REPETITIONS, WIDTH, COUNT = 300, 4, 100
# A rate of 0.95 gives 285 of 300 with a deviation of 4; four below leaves some room for intervals of so few images, and
# a rate of 0.88 gives 264. 279 (the inception score) to 295 were counted.
LEAST, MOST = 270, 298


def draw(generator, count, scale=0.8, shift=0.4):
    return torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) * scale + shift


@pytest.fixture(scope="module")
def repeated():
    """Scores of fresh images against one reference, REPETITIONS times."""
    generator = torch.Generator().manual_seed(0)
    real = Reference.of(Features(draw(generator, 100, 1, 0)), "real", "abc")
    head = 3 * torch.randn(WIDTH, 5, generator=generator, dtype=torch.float64) / WIDTH**0.5
    runs, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are small
    for seed in range(REPETITIONS):
        pooled = draw(generator, COUNT)
        features = Features(pooled, logits=pooled @ head)
        runs.append(score(features, real, names=(*DRAWN, "coverage"), splits=1, replicates=200, seed=seed))
    torch.set_num_threads(threads)
    return runs


def covered(runs, name):
    truth = sum(run[name].value for run in runs) / len(runs)
    return sum(run[name].low <= truth <= run[name].high for run in runs)


@pytest.mark.parametrize("name", DRAWN)
def test_intervals_hold_the_truth_at_their_rate(repeated, name):
    """The truth is the expectation of the score of 100 images, taken from the 300 sets (off by 1/17 of a deviation)."""
    assert LEAST <= covered(repeated, name) <= MOST


def test_the_interval_of_coverage_is_no_shorter_than_it_says(repeated):
    """Leaving images out overstates the spread where few balls are empty: never too short, often too long."""
    assert covered(repeated, "coverage") >= LEAST


def test_percentiles_of_drawing_again_would_not_hold_the_truth():
    """Why the bootstrap is linear: computed of images drawn again, the distance is larger than that of the images."""
    generator = torch.Generator().manual_seed(1)
    width, count = 16, 100
    reference = Moments.of(torch.randn(count, width, generator=generator, dtype=torch.float64)).gaussian
    sets = [0.9 * torch.randn(count, width, generator=generator, dtype=torch.float64) + 0.1 for _ in range(40)]
    values = [frechet(Moments.of(x).gaussian, reference) for x in sets]
    truth, held = sum(values) / len(values), 0
    for x in sets[:20]:
        again = [x[torch.randint(count, (count,), generator=generator)] for _ in range(40)]
        distances = torch.tensor([frechet(Moments.of(y).gaussian, reference) for y in again])
        held += bool(distances.quantile(0.025) <= truth <= distances.quantile(0.975))
    assert held <= 5


def test_the_same_seed_gives_the_same_interval_and_another_another():
    influence = draw(torch.Generator().manual_seed(0), 60)[:, 0]
    influence = influence - influence.mean()
    first = bootstrap(2.0, influence, seed=0)
    assert first == bootstrap(2.0, influence, seed=0) != bootstrap(2.0, influence, seed=1)
    half = 1.96 * float(influence.std()) / 60**0.5
    assert first.high - first.low == pytest.approx(2 * half, rel=0.1)
    assert bootstrap(0.01, influence, bounds=(0, 0.02)).low == 0


def test_a_fraction_of_all_has_an_interval_too():
    """Wilson's, in closed form: of 100 of 100 from n / (n + z^2) to 1."""
    found = proportion(torch.ones(100, dtype=torch.bool))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(100 / (100 + 1.959964**2))
