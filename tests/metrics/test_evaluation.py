"""Measuring: a classifier that is trained once, rows of a table, a full protocol."""

import json
from functools import partial

import pytest
import torch
from rich.console import Console

from data import Real, real_of_split
from dit.diffusion import LinearFlow
from dit.metrics import (
    Measure,
    Reference,
    Share,
    Source,
    classifier_of,
    extract,
    protocol_line,
    table,
    train_classifier,
    write_scores,
)
from dit.metrics import classifier as classifier_module
from dit.metrics.table import scale_of
from dit.solvers import CFG, TNR, CFGPlusPlus, Compose, LinearScale, Sampler
from dit.solvers.sample import describe
from tests.exact import Gaussian
from tests.training.tiny import digits


@pytest.fixture(scope="module")
def real():
    data = digits()
    return data.train.tensors(), data.validation.tensors()


@pytest.fixture(scope="module")
def measure(real):
    classifier = train_classifier(*real, 10, steps=50, minimum=0)
    reference = Reference.of(extract(classifier, [real[1][0]]), "held-out", "d1")
    return Measure(classifier, reference, classifier, ("frechet", "accuracy"), replicates=99)


def source_of(denoiser):
    parts = digits().codec.decode, "ema 0.999", 12, ["a model"]
    return Source(denoiser, "balanced", 3, (1, 8, 8), *parts)


def test_the_classifier_knows_digits_and_is_trained_once(tmp_path, monkeypatch):
    data = digits()
    train, held_out = real_of_split("a", data.train), real_of_split("b", data.validation)
    monkeypatch.setattr(classifier_module, "train_classifier", partial(train_classifier, steps=200))
    first = classifier_of(train, held_out, 10, tmp_path)
    assert first.held_out_accuracy > 0.95
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(Real, "tensors", None)  # nothing is decoded
    again = classifier_of(train, held_out, 10, tmp_path)
    assert vars(again).keys() == vars(first).keys()
    assert again.spec == first.spec
    assert again.shape == first.shape == (1, 8, 8)
    images, labels = data.validation.tensors()
    assert again.accuracy(images, labels) == first.held_out_accuracy
    assert first.accuracy(images, (labels + 1) % 10) < 0.05
    with pytest.raises(TypeError):  # other pictures want another one
        classifier_of(real_of_split("a", data.train, 700), held_out, 10, tmp_path)


def test_the_classifier_of_small_pictures_does_not_hang_on_the_cores(real):
    digests = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        digests.append(train_classifier(*real, 10, steps=20, minimum=0).digest)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert digests[0] == digests[1]


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
def test_a_row_is_named_by_its_rule_and_has_an_accuracy_only_if_labels_count(measure, tmp_path, rule, name):
    source = source_of(Gaussian(LinearFlow(), means=(0.0,) * 11, null_label=10))
    row, images = measure.of_samples(source, Sampler(steps=2, guidance=rule), 60, tmp_path, Share(), shown=7)
    assert row.name == name
    assert images.shape == (7, 1, 8, 8)
    assert (row.scores["accuracy"] is None) == isinstance(rule, Compose)
    assert name in printed(table([row]))


def test_a_score_carries_its_protocol(measure, real, tmp_path):
    source = source_of(Gaussian(LinearFlow()))
    row, _ = measure.of_samples(source, Sampler(steps=3), 60, tmp_path, Share())
    pictures = measure.of_pictures("real pictures", real[0][0].split(500), real[0][1])
    assert (row.name, row.solver["name"], row.steps, row.evaluations, row.rows) == ("CFG 1", "Heun", 3, 5, 5)
    assert row.value("frechet") > 10 * pictures.value("frechet")
    assert pictures.value("accuracy") > 0.9
    protocol = measure.protocol(source, 60, 0)
    line = protocol_line(protocol)
    digest = measure.classifier.digest
    for part in ("60 images", "balanced labels", "seed 0", "ema 0.999", "step 12", "held-out (360 pictures", digest):
        assert part in line
    text = printed(table([pictures, row]))
    for part in ("accuracy", "Frechet", "CFG 1", "NFE", "seconds", "real pictures", "±"):
        assert part in text
    write_scores(tmp_path / "deep" / "scores.json", protocol, [pictures, row])
    written = json.loads((tmp_path / "deep" / "scores.json").read_text())
    assert written["rows"][1]["scores"]["frechet"]["value"] == row.value("frechet")
    assert written["rows"][0]["guidance"] is None
    assert written["protocol"]["features"]["digest"] == digest
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["scores.json"]


def test_a_name_that_is_markup_or_an_escape_is_printed_as_it_is(measure, real):
    row = measure.of_pictures("[/x][bold]\x1b[31m", real[0][0][:20].split(500), None)
    assert "[/x][bold]\\x1b[31m" in printed(table([row]))


def test_the_scale_of_a_nest_of_rules_is_the_innermost():
    assert scale_of(describe(TNR(CFG(1.5)))) == 1.5
    assert scale_of(describe(CFGPlusPlus(0.5))) == 0.5
    assert scale_of(describe(CFG(LinearScale(1, 2)))) is None


def printed(what):
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    return console.export_text()
