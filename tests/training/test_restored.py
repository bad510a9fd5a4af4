"""A checkpoint whose weights are good and whose other state is not: one sentence, before a step is made."""

import copy
import random

import pytest
import torch

from dit.checkpoint import check_resume
from dit.training import RenamedCheckpointIO, StabilityLog
from tests.training.tiny import digits, module, trainer

VALUES = [None, "x", {}, [], -1, [1, "a"], {"x": 1}, torch.zeros(2, 3), 1 << 70, b"x"]


def fit(folder, steps, resume=None):
    data = digits(16)
    model = module(data)
    run = trainer(folder, steps, [StabilityLog()], enable_checkpointing=False)
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return run


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    fit(folder, 2).save_checkpoint(folder / "a.ckpt")
    return torch.load(folder / "a.ckpt", weights_only=True)


def places(node, path=()):
    """Paths of all values but those of `metadata`, which have its own tests, and three of each long mapping."""
    found = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    for key in found if len(found) < 20 else list(found)[:3]:
        if key != "metadata":
            yield (*path, key)
            yield from places(node[key], (*path, key))


def put(contents, path, value):
    changed = copy.deepcopy(contents)
    *above, last = path
    node = changed
    for key in above:
        node = node[key]
    node[last] = value
    return changed


def refusal(contents, folder, steps=3):
    """What resuming says, or None if it makes its step."""
    file = folder / "changed.ckpt"
    RenamedCheckpointIO().save_checkpoint(contents, file)
    try:
        check_resume(file, steps)
        fit(folder, steps, file)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "path",
    [
        ("loops",),
        ("loops", "fit_loop", "epoch_progress", "current"),
        ("loops", "fit_loop", "epoch_loop.batch_progress", "total", "ready"),
        ("optimizer_states",),
        ("optimizer_states", 0, "state"),
        ("optimizer_states", 0, "state", 0, "exp_avg"),
        ("optimizer_states", 0, "param_groups", 0, "lr"),
        ("optimizer_states", 0, "param_groups", 1, "params"),
        ("lr_schedulers",),
        ("lr_schedulers", 0, "base_lrs"),
        ("callbacks",),
        ("callbacks", "StabilityLog", "usual", "loss", "mean"),
        ("run", "rollbacks"),
        ("ema", "steps"),
        ("ema", "averages", "0.9", "final.linear.weight"),
        ("state_dict", "network.final.linear.weight"),
        ("Digits",),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_malformed_state_is_one_sentence(contents, tmp_path, path):
    said = refusal(put(contents, path, "x"), tmp_path)
    assert said
    assert "\n" not in said
    assert len(said) < 600


@pytest.mark.slow
def test_no_value_anywhere_in_a_checkpoint_ends_in_a_traceback(contents, tmp_path):
    drawn = random.Random(0)
    for path in places(contents):
        for value in drawn.sample(VALUES, 3):
            said = refusal(put(contents, path, value), tmp_path)
            assert said is None or "\n" not in said, (path, value, said)


def test_settings_that_another_torch_did_not_write_are_this_runs(contents, tmp_path):
    changed = copy.deepcopy(contents)
    del changed["optimizer_states"][0]["param_groups"][0]["eps"]
    del changed["lr_schedulers"][0]["_last_lr"]
    changed["lr_schedulers"][0]["step"] = 3  # torch would put it over the method
    assert refusal(changed, tmp_path) is None
