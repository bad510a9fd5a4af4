"""Scores while training: which steps, what is written and logged, the best checkpoint, a resumed run."""

import csv
import json

import pytest
import torch

from dit.checkpoint import read
from dit.evaluate import OnlineMetrics
from dit.metrics import Features
from dit.solvers import CFG, Euler, Sampler
from dit.training import RunLog, SaveCheckpoint
from tests.training.tiny import assert_same, digits, module, state, trainer


class Pixels:
    """The pixels themselves as features, averaged to four."""

    name, digest, min_size = "pixels", "none", 1
    spec = {"name": name, "digest": digest}  # noqa: RUF012

    def to(self, device):
        return self

    def __call__(self, images):
        return Features(torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1))


def online(folder, **changes):
    options = {
        "sampler": Sampler(steps=2, solver=Euler(), guidance=CFG(1), batch_size=8),
        "every_n_steps": 4,
        "images": 20,
        "guidance_scales": [1, 2],
        "features": Pixels(),
        "names": ["frechet"],
        "replicates": 19,
    }
    return OnlineMetrics(str(folder), str(folder), str(folder / "cache"), **{**options, **changes})


def fit(folder, steps, resume=None, score=None, **network):
    data = digits(16, mirror=True)
    model = module(data, **network)
    callbacks = [score or online(folder), SaveCheckpoint(str(folder), every_n_steps=3)]
    run = trainer(folder, steps, callbacks, logger=[RunLog(str(folder))])
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, run


def rows(folder):
    return json.loads((folder / "scores.json").read_text())["rows"]


def logged(folder):
    with (folder / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        return {int(row["step"]) + 1: row for row in csv.DictReader(file) if row.get("score/frechet@1")}


def test_a_run_scores_itself(tmp_path):
    fit(tmp_path, 10)
    found = rows(tmp_path)
    assert [(row["step"], row["name"]) for row in found] == [(s, f"CFG {g}") for s in (4, 8, 10) for g in (1, 2)]
    assert {row["weights"] for row in found} == {"ema 0.9"}
    told = logged(tmp_path)
    for row in found:
        value = row["scores"]["frechet"]["value"]
        assert float(told[row["step"]][f"score/frechet@{row['scale']:g}"]) == pytest.approx(value)
    by_step = {row["step"]: row["scores"]["frechet"]["value"] for row in found if row["scale"] == 1}
    assert read(tmp_path / "best.ckpt")["global_step"] == min(by_step, key=by_step.get)
    assert [read(tmp_path / name)["global_step"] for name in ("last.ckpt", "previous.ckpt")] == [10, 9]
    assert not list(tmp_path.glob(".scores*"))


def test_scoring_does_not_change_the_run_and_a_resumed_run_scores_the_same(tmp_path):
    straight = fit(tmp_path / "a", 10)
    bare = fit(tmp_path / "c", 10, metrics=online(tmp_path / "c", every_n_steps=100))
    assert_same(state(*straight), state(*bare))
    fit(tmp_path / "b", 8)
    (tmp_path / "b" / "last.ckpt").unlink()
    assert_same(state(*straight), state(*fit(tmp_path / "b", 10, tmp_path / "b" / "previous.ckpt")))
    kept = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in rows(tmp_path / name)]
        for name in ("a", "b")
    ]
    assert kept[0] == kept[1]
    assert logged(tmp_path / "a").keys() == logged(tmp_path / "b").keys()


def test_one_guidance_is_logged_by_its_name_alone(tmp_path):
    fit(tmp_path, 4, metrics=online(tmp_path, guidance_scales=[None], best=None))
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        assert "score/frechet" in next(csv.reader(file))
    assert not (tmp_path / "best.ckpt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every_n_steps": 0}, r"callbacks\.metrics\.every_n_steps must be a whole number of at least 1, got 0"),
        ({"images": 1}, r"callbacks\.metrics\.images must be a whole number of at least 2, got 1"),
        ({"best": "kid"}, r"callbacks\.metrics\.best must be null or one of frechet, got 'kid'"),
        ({"names": ["fid"], "best": None}, r"scores must be some of frechet, .*, got 'fid'"),
        ({"split": "test"}, r"split must be validation or train, got 'test'"),
        ({"labels": "even"}, r"labels must be balanced or random, got 'even'"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_training(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, 4, metrics=online(tmp_path, **changes))
    assert not (tmp_path / "last.ckpt").exists()


def test_a_model_without_dropout_is_scored_without_guidance(tmp_path, caplog):
    fit(tmp_path, 4, dropout=0.0)
    assert [row["name"] for row in rows(tmp_path)] == ["CFG 1"]
    assert "1 of 2 callbacks.metrics.scales are left out: " in caplog.text
    with pytest.raises(ValueError, match="dropout"):
        fit(tmp_path / "b", 4, metrics=online(tmp_path, guidance_scales=[2, 3]), dropout=0.0)
