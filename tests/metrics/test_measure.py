"""A measurement: what it keeps for the next time, under what, and what is too little for a score."""

import json
import multiprocessing
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from dit.diffusion import Denoiser, LinearFlow
from dit.metrics import (
    Features,
    Measure,
    Reference,
    Share,
    Source,
    alone,
    check_enough,
    check_told,
    digest_of,
    networks_named,
    protocol_line,
    read_reference,
    score,
)
from dit.model import DiT
from dit.solvers import (
    CFG,
    TNR,
    Autoguidance,
    Churn,
    ClassifierGuidance,
    Compose,
    Euler,
    Interval,
    KarrasGrid,
    LinearScale,
    Sampler,
)
from dit.versions import versions
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


def network(seed=0, **arguments):
    torch.manual_seed(seed)
    known = {"image_size": 2, "patch_size": 1, "channels": 1, "depth": 1, "num_heads": 1, "hidden_size": 16}
    return DiT(**{**known, "num_classes": 3, **arguments})


def weak(seed=0, kind="velocity", **arguments):
    return Denoiser(network(seed, **arguments), LinearFlow(), kind)


def folders(tmp_path, *samplers):
    """How many folders of samples there are after each."""
    found = []
    for sampler in samplers:
        measure().of_samples(source(), sampler, 8, tmp_path, Share())
        found.append(len(list(tmp_path.glob("samples-*"))))
    return found


def test_samples_of_another_weak_model_or_version_are_kept_apart(tmp_path, monkeypatch):
    def sampler(scale=2.0, **of_weak):
        return Sampler(steps=1, solver=Euler(), batch_size=8, guidance=Autoguidance(weak(**of_weak), scale))

    others = sampler(), sampler(), sampler(seed=1), sampler(kind="x0"), sampler(num_heads=2), sampler(LinearScale(1, 2))
    assert folders(tmp_path, *others) == [1, 1, 2, 3, 4, 5]
    assert versions().keys() == {"torch", "ditlab"}
    monkeypatch.setattr("dit.metrics.measure.versions", lambda: {**versions(), "torch": "99"})
    assert folders(tmp_path, sampler()) == [6]
    monkeypatch.setattr("dit.metrics.measure.versions", lambda: {**versions(), "ditlab": "99"})
    assert folders(tmp_path, sampler(), replace(sampler(), max_rows=4)) == [7, 8]


class Mine(CFG):
    """A rule of somebody's own, whose code may change."""


FLOW = LinearFlow()
UNTOLD = {
    "a function": CFG(lambda _: 1.5),
    "a function inside": TNR(CFG(lambda _: 1.5)),
    "a classifier": ClassifierGuidance(CFG(1), lambda x, _: x.flatten(1)[:, :3]),
    "a network": Autoguidance(Gaussian(FLOW)),
    "a network in a denoiser": Autoguidance(Denoiser(lambda x, *_: x, FLOW, "velocity")),
    "a module of others": Autoguidance(Denoiser(torch.nn.Identity(), FLOW, "velocity")),
    "a class of others": Mine(1.0),
}


@pytest.mark.parametrize("rule", UNTOLD)
def test_samples_that_nothing_tells_apart_are_not_kept(tmp_path, rule, caplog):
    """Of functions with the same name, other samples came out of the cache."""
    sampler = Sampler(steps=1, solver=Euler(), batch_size=4, guidance=UNTOLD[rule])
    assert not check_told(sampler, 1)
    with pytest.raises(ValueError, match=r"^guidance.* is a function or a class of your own.*trainer\.devices=1$"):
        measure().of_samples(source(), sampler, 8, tmp_path, Share(0, 2))
    assert not list(tmp_path.iterdir())
    if rule == "a function":
        values = []
        for scale in (1.0, 3.0):
            guided = replace(sampler, guidance=CFG(lambda _, scale=scale: scale))
            of = Source(Gaussian(FLOW, means=(1.0, 0.0, -1.0, 0.0), null_label=3), *list(vars(source()).values())[1:])
            values.append(measure().of_samples(of, guided, 8, tmp_path, Share())[0].value("frechet"))
            assert not list(tmp_path.iterdir())
        assert values[0] != values[1]
        assert "are not kept" in caplog.text
        measure().of_samples(of, guided, 8, tmp_path, Share(0, 1), own=True)
        assert len(list(tmp_path.iterdir())) == 1


def test_everything_of_ours_can_be_told():
    """Whatever the configurations name."""
    for rule in (CFG(1.5), Interval(CFG(LinearScale(1, 2)), (-1.0, 1.0)), Autoguidance(weak()), Compose((0,), (1.0,))):
        assert check_told(Sampler(guidance=rule, solver=Churn(), grid=KarrasGrid()), 2)


def test_a_protocol_names_the_weak_model_and_what_computes():
    rule = TNR(Autoguidance(weak()))
    config = {"_target_": "dit.solvers.TNR", "inner": {"weak": {"file": "small.ckpt", "weights": "raw"}, "scale": 2}}
    told = networks_named(rule, config)
    assert told == {"weak": {"file": "small.ckpt", "weights": "raw", "digest": digest_of(rule.inner.weak.network)}}
    assert networks_named(rule, None)["weak"]["file"] is None
    computing = {"precision": "bf16-true", "compile": "inductor", "device": "cpu", "batch_size": 128}
    real = {"real_pictures": {"split": "train", "images": 1000, "labels": "balanced"}}
    protocol = measure().protocol(source(), 1000, 0) | computing | told | real
    line = protocol_line(protocol)
    for part in (
        f"weak model small.ckpt {told['weak']['digest']}",
        "bf16-true compiled by inductor on cpu in batches of 128",
        f"torch {torch.__version__}, ditlab ",
        "real pictures 1,000 of train, their labels those of the samples",
    ):
        assert f", {part}" in line


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
    with pytest.raises(ValueError, match=rf"^{count} images are too few: {message}; metrics=\[\.\.\.\] drops it$"):
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
