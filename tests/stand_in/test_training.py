"""Whole runs on the stand-in device, and checkpoints that go from it to the CPU and back."""

import pytest
import torch

from data import Karras
from dit.solvers import Sampler
from dit.training import PowerEma, Preview, RunLog, SaveCheckpoint, SaveSnapshots, StabilityLog
from tests.evaluate.test_online import online
from tests.stand_in.lightning import CountWaits, on_stand_in
from tests.training.tiny import digits, module, state, trainer


def fit(folder, steps, where=None, resume=None, callbacks=(), data=None, settings=None, **network):
    pictures = digits(16, augment=Karras(), **(data or {}))
    model = module(pictures, augment_dim=9, ema=PowerEma([0.05, 0.1]), **network)
    run = trainer(
        folder,
        steps,
        [*callbacks, StabilityLog(), SaveCheckpoint(str(folder), 3)],
        logger=[RunLog(str(folder))],
        log_every_n_steps=4,
        **(settings or {}),
        **(where or {}),
    )
    run.fit(model, pictures, ckpt_path=resume, weights_only=True)
    return {name: tensor.cpu() for name, tensor in state(model, run).items()}


def assert_close(ours, theirs):
    """Kernels of attention differ in their last digits."""
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-3, msg=name)


def test_everything_at_once_runs_there(tmp_path):
    """storage=device, augmentation, averages and snapshots, previews, scores, validation, activation checkpointing."""
    count = CountWaits()
    sampler = Sampler(steps=2)
    callbacks = [
        count,
        Preview(str(tmp_path), sampler, every_n_steps=6, classes=2, per_class=1),
        SaveSnapshots(str(tmp_path / "ema"), 6),
        online(tmp_path, every_n_steps=6),
    ]
    more = {"data": {"storage": "device"}, "settings": {"val_check_interval": 6}}
    fit(tmp_path, 6, on_stand_in(), callbacks=callbacks, activation_checkpointing=1, **more)
    assert [step for step in (1, 2, 4) if count.steps[step]] == [], count.steps[1]
    for file in ("scores.json", "last.ckpt", "step_0000006.png", "ema"):
        assert (tmp_path / file).exists(), sorted(path.name for path in tmp_path.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["cpu", "standin"])
def test_a_checkpoint_goes_from_one_device_to_the_other(tmp_path, first):
    places = [None, on_stand_in()] if first == "cpu" else [on_stand_in(), None]
    straight = fit(tmp_path / "straight", 6)
    fit(tmp_path / "moved", 3, places[0])
    moved = fit(tmp_path / "moved", 6, places[1], resume=tmp_path / "moved" / "last.ckpt")
    assert_close(moved, straight)
