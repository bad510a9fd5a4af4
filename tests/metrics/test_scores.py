"""Scores of features: closed forms, then torch-fidelity and scipy on the same features, then what is refused."""

import dataclasses
import logging

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from dit.metrics.features import Features
from dit.metrics.frechet import frechet, frechet_influence
from dit.metrics.inception_score import inception_score
from dit.metrics.kid import kid, kid_influence
from dit.metrics.manifold import manifold
from dit.metrics.moments import Gaussian, Moments
from dit.metrics.reference import Reference
from dit.metrics.scores import SCORES, score


def draw(count, width, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix * scale + shift


def gaussian(features):
    return Moments.of(features).gaussian


def test_moments_merge_and_do_not_depend_on_the_batches():
    """Far from 0, where sums of squares would lose half the digits: the same to 1e-12 in batches of 1, 7 and all."""
    features = draw(300, 6, 0, shift=1e4)
    whole = Moments.of(features)
    mean, covariance = features.mean(0), torch.from_numpy(np.cov(features.numpy(), rowvar=False))
    assert torch.allclose(whole.gaussian.mean, mean, rtol=1e-12, atol=0)
    assert torch.allclose(whole.gaussian.covariance, covariance, rtol=1e-9, atol=1e-9)
    parts = [Moments.of(features[:1]), Moments.of(features[1:250], batch_size=7), Moments.of(features[250:], 1)]
    for merged in (parts[0] + parts[1] + parts[2], parts[2] + (parts[0] + parts[1])):
        assert merged.count == 300
        assert torch.allclose(merged.mean, whole.mean, rtol=1e-12, atol=0)
        assert torch.allclose(merged.scatter, whole.scatter, rtol=0, atol=1e-12 * 1e4 * 300)
    with pytest.raises(ValueError, match="needs at least 2 images, got 1"):
        _ = parts[0].gaussian


def test_frechet_of_gaussians_is_the_closed_form():
    """Commuting covariances: |m - m'|^2 + sum (s - s')^2, one of them singular. In one dimension from data, too."""
    axes = torch.linalg.qr(draw(5, 5, 1)).Q
    s, t = torch.tensor([3.0, 1, 0.5, 0.2, 0], dtype=torch.float64), torch.tensor([1.0, 2, 0.5, 0, 1]).double()
    a, b = (Gaussian(m, axes @ torch.diag(v**2) @ axes.T) for m, v in ((axes[0], s), (2 * axes[1], t)))
    assert frechet(a, b) == pytest.approx(5 + float((s - t).square().sum()), rel=1e-12)
    x, y = draw(50, 1, 2), draw(40, 1, 3, 2.0, 1.0)
    expected = float((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2)
    assert frechet(gaussian(x), gaussian(y)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [500, 20], ids=["full rank", "singular"])
def test_frechet_equals_scipy_and_torch_fidelity(count):
    x, y = draw(count, 32, 1), draw(400, 32, 2, 1.3, 0.2)
    value = frechet(gaussian(x), gaussian(y))
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(f) for f in (x, y)), verbose=False)
    # Of a singular product the eigenvalues that are 0 come out of theirs as 1e-16, with a root of 1e-8 each.
    assert value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    a, b = (np.cov(f.numpy(), rowvar=False) for f in (x, y))
    root = np.trace(scipy.linalg.sqrtm(a @ b + 0j)).real
    assert value == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(a + b) - 2 * root, rel=1e-6)


@pytest.mark.parametrize("count", [200, 10], ids=["full rank", "singular"])
def test_a_set_against_itself_scores_0(count):
    x = draw(count, 32, 4)
    own = gaussian(x)
    assert frechet(own, own) < 1e-12 * float(own.covariance.trace())
    around = manifold(x, x)
    everything = torch.ones(count, dtype=torch.bool)
    assert (around.precision, around.recall(everything), around.coverage(everything)) == (1, 1, 1)
    assert around.density == pytest.approx(1)


def test_influences_are_the_derivatives():
    """An image counted 1 + e times moves the score by e / N times its influence."""
    x, y = draw(60, 4, 5), draw(80, 4, 6, 1.4, 0.3)
    weight = torch.full((60,), 1 / 60, dtype=torch.float64)
    tilt = torch.zeros(60, dtype=torch.float64)
    tilt[7] = 1
    real = gaussian(y)

    def weighted_frechet(w):
        w = w / w.sum()
        mean = w @ x
        return frechet(Gaussian(mean, (x - mean).T @ ((x - mean) * w[:, None])), real)

    def weighted_kid(w):
        w = w / w.sum()
        kernel = lambda a, b: (a @ b.T / 4 + 1) ** 3  # noqa: E731
        own = kernel(x, x).fill_diagonal_(0) * 60 / 59
        return float(w @ own @ w - 2 * (w @ kernel(x, y)).mean())

    biased = Gaussian(real.mean, real.covariance)
    images = gaussian(x)
    images = Gaussian(images.mean, images.covariance * 59 / 60)
    step = 1e-5
    for function, influence in (
        (weighted_frechet, frechet_influence(x, images, biased)),
        (weighted_kid, kid_influence(x, y)[1]),
    ):
        slope = (function(weight + step * tilt) - function(weight - step * tilt)) / (2 * step)
        assert float(influence[7]) == pytest.approx(slope, rel=1e-5)
        assert abs(float(influence.mean())) < 1e-10

    logits = draw(60, 5, 7, 3.0)
    value, influence = inception_score(logits, splits=1)

    def weighted_score(w):
        log_p, w = logits.log_softmax(1), w / w.sum()
        return float((w @ (log_p.exp() * (log_p - (w @ log_p.exp()).log())).sum(1)).exp())

    assert value == pytest.approx(weighted_score(weight))
    slope = (weighted_score(weight + step * tilt) - weighted_score(weight - step * tilt)) / (2 * step)
    assert float(influence[7]) == pytest.approx(slope, rel=1e-5)


def test_kid_equals_torch_fidelity_on_the_same_subsets():
    x, y = draw(300, 16, 8), draw(250, 16, 9, 1.2, 0.1)
    options = {"kid_subset_size": 100, "kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}
    options |= {"kid_kernel_poly_coef0": 1, "verbose": False, "rng_seed": 3}
    theirs = kid_features_to_metric(x, y, kid_subsets=5, **options)
    generator = np.random.RandomState(3)
    subsets = [tuple(torch.from_numpy(generator.choice(n, 100, replace=False)) for n in (300, 250)) for _ in range(5)]
    assert kid(x, y, subsets) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    # All pairs: one subset of everything.
    whole = kid_features_to_metric(x[:250], y, kid_subsets=1, **options | {"kid_subset_size": 250})
    assert kid(x[:250], y) == pytest.approx(whole["kernel_inception_distance_mean"], rel=1e-6)
    # Unbiased: halves of one set are as often below 0 as above.
    below = [kid(half[:100], half[100:]) < 0 for half in (draw(200, 8, seed) for seed in range(60))]
    assert 15 < sum(below) < 50


def test_precision_and_recall_equal_torch_fidelity():
    x, y = draw(300, 8, 10, 0.9, 0.1), draw(250, 8, 10, 1.0)
    theirs = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False)
    around = manifold(x, y, batch_size=37)
    found = around.precision, around.recall(torch.ones(300, dtype=torch.bool))
    assert found == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)
    assert 0.1 < found[0] < 1


def test_manifold_scores_picture_by_picture_also_with_images_left_out():
    """The definitions, by sorting: recall over fewer images has wider balls around each."""
    x, y = draw(60, 3, 11, 0.8, 0.2), draw(50, 3, 12)
    mask = torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.7

    def radii(points, neighbour):
        return [sorted(float((p - q).norm()) for q in points)[neighbour] for p in points]

    three, five = radii(y, 3), radii(y, 5)
    around = manifold(x, y, batch_size=7)
    in_three = [any(float((p - q).norm()) <= r for q, r in zip(y, three, strict=True)) for p in x]
    in_five = [sum(float((p - q).norm()) < r for q, r in zip(y, five, strict=True)) for p in x]
    assert around.precision == pytest.approx(sum(in_three) / 60)
    assert around.density == pytest.approx(sum(in_five) / 300)
    for counted in (torch.ones(60, dtype=torch.bool), mask):
        some = x[counted]
        own = radii(some, 3)
        inside = [any(float((p - q).norm()) <= r for q, r in zip(some, own, strict=True)) for p in y]
        covered = [any(float((p - q).norm()) < r for q in some) for p, r in zip(y, five, strict=True)]
        assert around.recall(counted) == pytest.approx(sum(inside) / 50)
        assert around.coverage(counted) == pytest.approx(sum(covered) / 50)


def test_precision_and_recall_of_known_sets():
    near, far = draw(100, 4, 13), draw(100, 4, 13) + 50
    whole = torch.cat([near, far])

    def both(images, reference):
        around = manifold(images, reference)
        return around.precision, around.recall(torch.ones(len(images), dtype=torch.bool))

    assert [both(near, near), both(near, far)] == [(1, 1), (0, 0)]
    assert [both(whole, near), both(near, whole)] == [(0.5, 1), (1, 0.5)]


def test_inception_score_equals_torch_fidelity_and_its_limits():
    logits = draw(203, 10, 14, 4.0)
    order = torch.randperm(203, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits[order], splits=10, shuffle=False)["inception_score_mean"]
    assert inception_score(logits)[0] == pytest.approx(theirs, rel=1e-6)
    sure = 1e3 * torch.eye(10, dtype=torch.float64).repeat(10, 1)
    assert inception_score(sure, splits=1)[0] == pytest.approx(10)
    assert inception_score(torch.zeros(50, 10), splits=5)[0] == pytest.approx(1)


def features(count, seed, width=8):
    pooled = draw(count, width, seed)
    return Features(pooled, pooled[:, :3], pooled[:, :4])


def test_score_gives_all_names_and_none_for_what_is_missing():
    real = Reference.of(features(80, 1), "real", "abc")
    labels = torch.arange(60) % 4
    ours = features(60, 2)
    found = score(ours, real, labels, judged=ours.logits, replicates=50)
    assert tuple(found) == SCORES
    for name, estimate in found.items():
        assert estimate is not None, name
        assert estimate.low <= estimate.value <= estimate.high, name
    assert found == score(ours, real, labels, judged=ours.logits, replicates=50)
    moments_only = dataclasses.replace(real, pooled=None)
    poorer = score(Features(ours.pooled), moments_only, replicates=50)
    assert {name for name, estimate in poorer.items() if estimate is not None} == {"frechet"}
    assert list(score(ours, real, names=["kid"])) == ["kid"]


def test_balanced_labels_narrow_the_interval_where_classes_differ():
    labels = torch.arange(100) % 4
    apart = features(100, 2).pooled + 10 * labels[:, None]
    real = Reference.of(Features(features(100, 1).pooled + 15), "real", "abc")
    dealt = score(Features(apart), real, labels, names=["frechet"])["frechet"]
    drawn = score(Features(apart), real, names=["frechet"])["frechet"]
    assert dealt.high - dealt.low < 0.5 * (drawn.high - drawn.low)


def test_fewer_images_than_features_is_said(caplog):
    real = Reference.of(features(80, 1), "real", "abc")
    with caplog.at_level(logging.WARNING):
        score(features(9, 2), real, names=["frechet"])
        assert not caplog.records
        score(features(8, 2), real, names=["frechet"])
    assert "frechet of 8 images in 8 features: their covariance is singular" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"names": ["fid"]}, "there is no score 'fid': frechet, spatial_frechet, kid"),
        ({"names": ["frechet"], "features": features(1, 2)}, "Frechet distance needs at least 2 images, got 1"),
        ({"names": ["kid"], "features": features(1, 2)}, "KID needs at least 2 images, got 1"),
        ({"names": ["recall"], "features": features(5, 2)}, "need more than 5 images, got 5"),
        (
            {"names": ["inception_score"], "features": features(9, 2)},
            "of 10 splits needs at least as many images, got 9",
        ),
        ({"names": ["frechet"], "features": features(20, 2, 7)}, "the reference has 8 features and the images have 7"),
        ({"names": ["coverage"], "features": features(20, 2, 7)}, "the reference has 8 features and the images have 7"),
        ({"labels": torch.zeros(3)}, "there must be as many labels as images, got 3 for 20"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_scored_is_refused(arguments, sentence):
    real = Reference.of(features(80, 1), "real", "abc")
    with pytest.raises(ValueError, match=sentence):
        score(**{"features": features(20, 2), "reference": real} | arguments)
