"""A measurement: what it keeps for the next time, under what, and what is too little for a score."""

import json
import multiprocessing
import time

import numpy as np
import pytest
import torch

from dit.diffusion import LinearFlow
from dit.evaluation import Features, Measure, Reference, Share, Source, alone, check_enough, read_reference, score
from dit.solvers import Euler, Sampler
from tests.exact import Gaussian


class Pixels:
    """Features that are the pixels; calls: how often it was asked."""

    calls = 0
    name, digest, min_size = "pixels", "p1", 1

    @property
    def spec(self):
        return {"name": "pixels", "digest": "p1", "held_out_accuracy": None}

    def __call__(self, images):
        self.calls += 1
        return Features(images.float().flatten(1))


def pictures(count, seed=0):
    return torch.randint(0, 256, (count, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def measure(seed=1, **changes):
    real = Pixels()(pictures(30, seed))
    options = {"names": ("frechet", "kid"), "replicates": 19, **changes}
    return Measure(Pixels(), Reference.of(real, "real", f"r{seed}"), **options)


def test_pictures_are_measured_a_batch_at_a_time_as_all_at_once():
    images = pictures(20)
    row = measure().of_pictures("some", images.split(7), None)
    assert (row.name, row.images, row.guidance) == ("some", 20, None)
    whole = score(Pixels()(images), measure().reference, names=("frechet", "kid"), replicates=19)
    assert row.scores == whole


def test_scores_are_kept_under_all_they_depend_on(tmp_path):
    images = pictures(20)
    calls = []

    def batches():
        calls.append(len(calls))
        return [images]

    kept = measure().of_kept("real pictures", "d1", batches, None, tmp_path)
    assert kept == measure().of_pictures("real pictures", [images], None)
    assert measure().of_kept("real pictures", "d1", batches, None, tmp_path) == kept
    assert calls == [0]
    others = measure(seed=2), measure(names=("frechet",)), measure(replicates=29)
    for other in others:
        assert other.of_kept("real pictures", "d1", batches, None, tmp_path) != kept
    measure().of_kept("real pictures", "d2", batches, None, tmp_path)
    assert calls == [0, 1, 2, 3, 4]
    assert len(list(tmp_path.glob("scores-*.json"))) == len(list(tmp_path.iterdir())) == 5
    file = next(tmp_path.iterdir())
    assert json.loads(file.read_text())["images"] == 20


def test_the_features_of_an_npz_are_kept(tmp_path):
    """With its moments, which count for the distances."""
    file, cache, extractor = tmp_path / "x.npz", tmp_path / "cache", Pixels()
    np.savez(file, arr_0=pictures(9).permute(0, 2, 3, 1).numpy(), mu=np.zeros(4), sigma=np.eye(4))
    first = read_reference(file, extractor, cache=cache)
    again = read_reference(file, extractor, cache=cache)
    assert extractor.calls == 1
    assert torch.equal(again.pooled, first.pooled)
    assert torch.equal(again.moments.covariance, torch.eye(4, dtype=torch.float64))
    assert (again.name, again.digest, again.images) == (first.name, first.digest, first.images)
    np.savez(file, arr_0=pictures(9, seed=1).permute(0, 2, 3, 1).numpy())
    assert not torch.equal(read_reference(file, extractor, cache=cache).pooled, first.pooled)


def source(labels="balanced", identity="a model"):
    def decode(x0):
        return ((x0 + 3) * 40).clamp(0, 255).to(torch.uint8)

    return Source(Gaussian(LinearFlow()), labels, 3, (1, 2, 2), decode, "ema 0.9", 7, [identity])


def test_samples_go_where_nothing_that_changes_them_is_mixed(tmp_path):
    sampler = Sampler(steps=2, solver=Euler(), batch_size=8)
    options = 20, tmp_path, Share()
    row, images = measure().of_samples(source(), sampler, *options, shown=5)
    assert (row.images, row.step, row.weights, row.steps, row.evaluations) == (20, 7, "ema 0.9", 2, 2)
    assert images.shape == (5, 1, 2, 2)
    (first,) = tmp_path.iterdir()
    # The reference, the scores and the replicates are of the measuring, not of the sampling.
    assert measure(seed=2, names=("kid",), replicates=5).of_samples(source(), sampler, *options, shown=5)
    assert list(tmp_path.iterdir()) == [first]
    others = [
        (source("random"), sampler),
        (source(identity="another"), sampler),
        (source(), Sampler(steps=3, solver=Euler(), batch_size=8)),
        (source(), Sampler(steps=2, solver=Euler(), batch_size=8, seed=1)),
        (source(), Sampler(steps=2, solver=Euler(), batch_size=4)),
    ]
    for other in others:
        measure().of_samples(*other, *options, shown=5)
    assert len(list(tmp_path.iterdir())) == 1 + len(others)


def test_only_the_first_process_has_a_row(tmp_path):
    sampler = Sampler(steps=1, solver=Euler(), batch_size=4)
    assert measure().of_samples(source(), sampler, 8, tmp_path, Share(1, 2)) is None
    (folder,) = tmp_path.iterdir()
    assert [file.name for file in folder.iterdir()] == ["images_0000004-0000007.safetensors"]
    row, _ = measure().of_samples(source(), sampler, 8, tmp_path, Share())
    assert row.images == 8


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        (["frechet"], 1, "frechet needs at least 2"),
        (["frechet", "kid", "coverage"], 5, "coverage needs at least 6"),
        (["inception_score", "recall"], 9, "inception_score needs at least 10"),
    ],
)
def test_too_few_are_refused_before_they_are_made(names, count, message):
    with pytest.raises(ValueError, match=rf"^{count} images are too few: {message}; scores=\[\.\.\.\] drops it$"):
        check_enough(names, count, "images")
    check_enough(names, count + 1, "images")
    check_enough(["accuracy"], 1, "images")
    # It is as the scores themselves have it.
    features = Features(torch.randn(count, 3), None, torch.randn(count, 4))
    reference = Reference.of(Features(torch.randn(20, 3)), "real", "r")
    with pytest.raises(ValueError, match=r"needs? (at least|more)"):
        score(features, reference, names=names, replicates=5)


def hold(cache, order, name, seconds):
    with alone(cache):
        order.append(name)
        time.sleep(seconds)
        order.append(name)


def test_one_process_at_a_time(tmp_path):
    with multiprocessing.Manager() as manager:
        order = manager.list()
        processes = [multiprocessing.Process(target=hold, args=(tmp_path / "c", order, n, 0.2)) for n in "abc"]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        found = "".join(order)
    assert sorted(found) == list("aabbcc")
    assert all(found[i] == found[i + 1] for i in (0, 2, 4))
