"""Scores: the Frechet distance against its closed form, a classifier that is trained once, a full protocol."""

import math

import pytest
import torch
from rich.console import Console
from torch import nn

from dit.diffusion import LinearFlow
from dit.evaluation import (
    frechet_distance,
    protocol_line,
    score_images,
    score_sampler,
    table,
    train_classifier,
)
from dit.solvers import CFG, TNR, CFGPlusPlus, Compose, LinearScale, Sampler, UniformGrid
from tests.exact import Gaussian
from tests.training.tiny import digits


class Flat(nn.Module):
    """The pixels themselves as features."""

    num_features = 4

    def forward(self, images):
        return images.flatten(1).double()


def bytes_of(mean, std, count=20_000):
    x = mean + std * torch.randn(count, 1, 2, 2, dtype=torch.float64)
    return x.round().clamp(0, 255).to(torch.uint8)


def test_frechet_distance_is_the_closed_form_for_gaussians():
    """|m1 - m2|^2 + d (s1 - s2)^2 for independent features, to 2 % at 20,000 draws (rounding adds 1/12 to both)."""
    distance = frechet_distance(Flat(), bytes_of(120, 20), bytes_of(100, 10))
    spread = [math.sqrt(s**2 + 1 / 12) for s in (20, 10)]
    assert distance == pytest.approx(4 * (20**2 + (spread[0] - spread[1]) ** 2), rel=0.02)
    same = bytes_of(100, 10)
    assert frechet_distance(Flat(), same, same) == pytest.approx(0, abs=1e-3)


@pytest.fixture(scope="module")
def real():
    data = digits()
    return data.train.tensors(), data.validation.tensors()


def test_the_classifier_knows_digits_and_is_trained_once(real, tmp_path):
    train, held_out = real
    first = train_classifier(train, held_out, 10, tmp_path, steps=200)
    assert first.held_out_accuracy > 0.95
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = train_classifier(train, held_out, 10, tmp_path, steps=200)
    assert file.stat().st_mtime_ns == written
    assert again.digest == first.digest
    assert first.accuracy(held_out[0], (held_out[1] + 1) % 10) < 0.05
    other = train_classifier((train[0][:700], train[1][:700]), held_out, 10, tmp_path, steps=20, minimum=0)
    assert other.digest != first.digest


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (CFG(1.5, channels=1), "CFG 1.5, channels 1"),
        (CFG(2, negative=3), "CFG 2, negative 3"),
        (TNR(CFG(LinearScale(1, 2))), "TNR(CFG LinearScale 1-2)"),
        (CFGPlusPlus(0.5), "CFGPlusPlus 0.5"),
        (Compose((0, 1), (1.0, 2.0)), "Compose [1.0, 2.0], classes [0, 1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_is_named_by_its_rule_and_has_an_accuracy_only_if_labels_count(real, tmp_path, rule, name):
    train, held_out = real
    classifier = train_classifier(train, held_out, 10, tmp_path, steps=2, minimum=0)
    denoiser = Gaussian(LinearFlow(), means=(0.0,) * 11, null_label=10)
    sampler = Sampler(steps=2, guidance=rule)
    decode = digits().codec.decode
    scored = score_sampler(denoiser, sampler, [0, 1, 2] * 20, (1, 8, 8), decode, held_out[0], classifier)
    assert scored.name == name
    assert (scored.accuracy is None) == isinstance(rule, Compose)
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table([scored]))
    assert name in console.export_text()


def test_a_score_carries_its_protocol(real, tmp_path):
    train, held_out = real
    classifier = train_classifier(train, held_out, 10, tmp_path, steps=50, minimum=0)
    decode = digits().codec.decode
    sampled = score_sampler(
        Gaussian(LinearFlow()), Sampler(steps=3), [0, 1, 2] * 20, (1, 8, 8), decode, held_out[0], classifier
    )
    assert (sampled.name, sampled.solver, sampled.evaluations, sampled.rows) == ("CFG 1", "Heun 3", 5, 5)
    assert sampled.frechet > 10 * score_images("real", *train, held_out[0], classifier).frechet
    line = protocol_line(classifier, 1000, 360, 0, "ema 0.999", UniformGrid())
    for part in ("1,000 images", "balanced labels", "all channels", "seed 0", "ema 0.999", "360", classifier.digest):
        assert part in line
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table([sampled]))
    text = console.export_text()
    for part in ("class accuracy", "Frechet distance", "CFG 1", "Heun 3", "NFE", "seconds"):
        assert part in text
