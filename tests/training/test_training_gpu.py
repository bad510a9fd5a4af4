"""Training on a GPU: what it gives on the CPU, resumed to the bit, and without a wait of the host."""

import csv
import warnings
from collections import Counter

import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger

from dit.checkpoint import load
from dit.training import FullySharded, SaveCheckpoint
from tests.training.tiny import assert_same, digits, module, state, trainer

pytestmark = pytest.mark.gpu
QUIET = {"log_every_n_steps": 1000}


def run(folder, steps, accelerator="gpu", callbacks=(), ckpt=None, compile=None, network=None, **settings):
    torch.set_float32_matmul_precision("highest")
    model = module(digits(), compile=compile, **(network or {}))
    fit = trainer(folder, steps, callbacks, accelerator=accelerator, **QUIET | settings)
    fit.fit(model, digits(), ckpt_path=ckpt, weights_only=True)
    return model, fit


def losses(folder):
    with next(folder.rglob("metrics.csv")).open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize(
    ("changes", "close"),
    [({}, 1e-4), ({"precision": "bf16-mixed"}, 2e-2), ({"precision": "bf16-mixed", "compile": "inductor"}, 2e-2)],
    ids=["32-true", "bf16-mixed", "compiled"],
)
def test_it_learns_as_the_cpu_does(changes, close, tmp_path):
    found = []
    for name, more in {"cpu": {}, "gpu": changes}.items():
        logged = {"logger": CSVLogger(tmp_path / name), "log_every_n_steps": 1}
        run(tmp_path / name, 20, accelerator=name, **logged, **more)
        found.append(losses(tmp_path / name))
    assert len(found[0]) == 20
    torch.testing.assert_close(*map(torch.tensor, found), rtol=close, atol=close)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16-mixed", "compile": "inductor"}], ids=["plain", "compiled"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(changes, tmp_path):
    whole, fit = run(tmp_path / "whole", 6, **changes)
    run(tmp_path / "part", 3, callbacks=[SaveCheckpoint(str(tmp_path / "part"), 3)], **changes)
    rest, fit_rest = run(tmp_path / "part", 6, ckpt=str(tmp_path / "part" / "last.ckpt"), **changes)
    assert_same(state(rest, fit_rest), state(whole, fit))


def test_its_checkpoint_loads_on_the_cpu_and_goes_on_there(tmp_path):
    model, _ = run(tmp_path, 3, callbacks=[SaveCheckpoint(str(tmp_path), 3)])
    loaded = load(tmp_path / "last.ckpt", device="cpu")
    average = model.ema.averages["0.9"]
    assert all(torch.equal(value, average[key].cpu()) for key, value in loaded.network.named_parameters())
    _, fit = run(tmp_path, 5, accelerator="cpu", ckpt=str(tmp_path / "last.ckpt"))
    assert fit.global_step == 5


def test_one_sharded_process_learns_as_a_plain_one(tmp_path):
    plain, _ = run(tmp_path / "plain", 4)
    sharded, _ = run(tmp_path / "sharded", 4, strategy=FullySharded())
    theirs = {name: value.full_tensor() for name, value in sharded.network.state_dict().items()}
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-6)


class Waits(Callback):
    """Counts where the host waits for the device, from the third step on."""

    def __init__(self):
        self.found = Counter()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_end(self, trainer, pl_module):
        torch.cuda.set_sync_debug_mode("default")


def test_no_step_between_two_logs_waits_for_the_device(tmp_path):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run(tmp_path, 12, callbacks=[Waits()], enable_checkpointing=False, network={"depth": 2})
    waits = Counter(f"{w.filename}:{w.lineno}" for w in seen if "synchroniz" in str(w.message))
    assert not waits
