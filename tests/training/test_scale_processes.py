"""Two gloo processes, replicated or sharded, train what one process trains: weights, averages, optimiser, pictures."""

import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image

from dit.checkpoint import load, read
from dit.diffusion import LinearFlow
from dit.objectives import MSE, LearnedUncertainty
from dit.solvers import Sampler
from dit.training import FullySharded, Preview, Rollback, RunLog, SaveCheckpoint, StabilityLog
from tests.evaluate.test_online import online
from tests.training.processes import two
from tests.training.test_stability import poisoned, rows
from tests.training.tiny import digits, module, trainer

POISON = [16 * 4 + 13]  # of the second process, after the checkpoint of step 3
STRATEGIES = {"ddp": lambda: DDPStrategy(gradient_as_bucket_view=True), "fsdp": FullySharded}


def fit(folder, steps, resume=None, network=None, poison=(), on_nonfinite=None, **settings):
    """Training with all that hangs on the number of processes: shared batches, dropped labels, accumulation, clipping,
    a loss with weights of its own, validation and previews."""
    data = digits(16, mirror=True)
    objective = {"path": LinearFlow(), "kind": "velocity", "loss": LearnedUncertainty(MSE("velocity"))}
    sizes = {"depth": 2, "dropout": 0.3, "position": "learned", **(network or {})}
    model = poisoned(module(data, objective=objective, on_nonfinite=on_nonfinite, **sizes), *poison)
    callbacks = [
        SaveCheckpoint(str(folder), every_n_steps=3),
        Preview(str(folder), Sampler(steps=2), every_n_steps=3, classes=2, per_class=1),
        StabilityLog(),
        online(folder),
    ]
    more = {
        "accumulate_grad_batches": 2,
        "val_check_interval": 4,
        "log_every_n_steps": 3,
        "logger": [RunLog(str(folder))],
    }
    run = trainer(folder, steps, callbacks, **more, **settings)
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, run


def join(rank, port):
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({key: str(value) for key, value in where.items()} | {"TORCHELASTIC_RUN_ID": "test"})
    torch.set_num_threads(1)


def worker(rank, port, folder):
    join(rank, port)
    for name, strategy in STRATEGIES.items():
        model, run = fit(folder / name, 6, devices=2, strategy=strategy())
        metrics = {key: float(value) for key, value in run.callback_metrics.items()}
        torch.save(metrics, folder / name / f"metrics{rank}.pt")
    shards = {key: tuple(value.to_local().shape) for key, value in model.network.named_parameters()}
    averages = {key: tuple(value.to_local().shape) for key, value in model.ema.averages["0.9"].items()}
    moments = [tuple(v["exp_avg"].to_local().shape) for v in run.optimizers[0].state.values()]
    torch.save({"shards": shards, "averages": averages, "moments": moments}, folder / f"shapes{rank}.pt")
    dist.destroy_process_group()


def interrupted_worker(rank, port, folder):
    join(rank, port)
    for name, strategy in STRATEGIES.items():
        network = {"compile": "aot_eager", "activation_checkpointing": 2} if name == "fsdp" else {}
        settings = {"devices": 2, "strategy": strategy()}
        fit(folder / f"{name}_resumed", 6, resume=folder / "three" / "last.ckpt", network=network, **settings)
        settings = {"devices": 2, "strategy": strategy()}
        rolled = folder / f"{name}_rolled"
        fit(rolled, 6, poison=POISON, on_nonfinite=Rollback(str(rolled)), **settings)
        settings = {"devices": 2, "strategy": strategy()}
        with pytest.raises(FloatingPointError, match=r"the loss is not finite at step 4 \(rank 1\)"):
            fit(folder / f"{name}_stopped", 6, poison=POISON, **settings)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Straight through."""
    folder = tmp_path_factory.mktemp("processes")
    torch.set_num_threads(1)
    _, one = fit(folder / "one", 6)
    torch.save({key: float(value) for key, value in one.callback_metrics.items()}, folder / "one" / "metrics0.pt")
    two(worker, folder)
    return folder


@pytest.fixture(scope="module")
def interrupted(runs):
    """Resumed by more processes and by fewer, rolled back, and stopped."""
    fit(runs / "three", 3)
    rolled = runs / "one_rolled"
    fit(rolled, 6, poison=POISON, on_nonfinite=Rollback(str(rolled)))
    two(interrupted_worker, runs)
    for name in ("one", "fsdp"):
        fit(runs / f"{name}_prolonged", 7, resume=runs / name / "last.ckpt")
    return runs


def tensors(contents, place=()):
    """Every tensor of nested containers, by its place in them."""
    if isinstance(contents, torch.Tensor):
        return {place: contents}
    items = (
        contents.items() if isinstance(contents, dict) else enumerate(contents) if isinstance(contents, list) else ()
    )
    return {key: tensor for name, item in items for key, tensor in tensors(item, (*place, name)).items()}


@pytest.mark.parametrize("ours", STRATEGIES)
def test_two_processes_leave_the_checkpoint_that_one_leaves(runs, ours):
    """Six steps of AdamW: weights, averages and moments, to 1e-4, where a step moves a weight by 1e-2. Only sums over
    the processes differ, in their last digits; most so the biases of keys, whose gradient is nothing but rounding,
    which AdamW divides by its own size."""
    left_the_same(runs, ours, "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ddp_resumed", "one"),
        ("fsdp_resumed", "one"),
        ("fsdp_prolonged", "one_prolonged"),
        ("ddp_rolled", "one_rolled"),
        ("fsdp_rolled", "one_rolled"),
    ],
)
def test_what_two_processes_resume_and_roll_back_is_what_one_leaves(interrupted, ours, theirs):
    """Three steps by one process and three by two, or six by two and one by one."""
    left_the_same(interrupted, ours, theirs)


def left_the_same(runs, ours, theirs):
    theirs, ours = (read(runs / name / "last.ckpt") for name in (theirs, ours))
    expected, found = tensors(theirs), tensors(ours)
    assert list(expected) == list(found)
    assert {key[0] for key in expected} == {"state_dict", "ema", "optimizer_states"}
    for key, tensor in expected.items():
        assert type(found[key]) is torch.Tensor
        assert found[key].dtype == tensor.dtype
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-4, msg=str(key))
    assert ours["ema"]["steps"] == theirs["ema"]["steps"] == ours["global_step"]
    assert ours["optimizer_states"][0]["param_groups"] == theirs["optimizer_states"][0]["param_groups"]
    assert ours["state_dict"]["loss.weights"].abs().max() > 1e-3  # trained too


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_score_what_one_does(runs, name):
    ours, theirs = (json.loads((runs / where / "scores.json").read_text())["rows"] for where in (name, "one"))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [4, 4, 6, 6]
    values = [[row["scores"]["frechet"]["value"] for row in rows] for rows in (ours, theirs)]
    assert values[0] == pytest.approx(values[1], rel=1e-2)  # pictures are bytes: some round the other way
    assert not list((runs / name).glob(".scores*"))
    assert read(runs / name / "best.ckpt")["global_step"] == read(runs / "one" / "best.ckpt")["global_step"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_log_and_draw_what_one_does(runs, name):
    metrics = [torch.load(runs / where) for where in ("one/metrics0.pt", f"{name}/metrics0.pt", f"{name}/metrics1.pt")]
    assert {"train/loss", "train/gradient_norm", "val/loss", "val_raw/loss"} <= metrics[0].keys()
    assert metrics[1] == metrics[2]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-5)
    logs = [rows(runs / where / "csv" / "version_0" / "metrics.csv") for where in ("one", name)]
    assert {"spikes/loss", "ema/distance_0.9", "train/loss_log_snr/0_to_2"} <= logs[0][0].keys()
    for ours, theirs in zip(*logs, strict=True):
        assert [key for key in ours if ours[key]] == [key for key in theirs if theirs[key]]
        numbers = [{key: float(row[key]) for key in row if row[key]} for row in (ours, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)
    for step in (0, 3, 6):
        ours, theirs = (
            np.asarray(Image.open(runs / folder / f"step_{step:07d}.png")).astype(int) for folder in (name, "one")
        )
        assert np.abs(ours - theirs).max() <= 1  # of 255
    sampled = []
    for folder in (name, "one"):
        loaded = load(runs / folder / "last.ckpt")
        batches = Sampler(steps=4).batches(loaded.denoiser, [0, 1], loaded.shape, 2, torch.device("cpu"))
        sampled.append(torch.cat([batch.x0 for batch in batches]))
    torch.testing.assert_close(*sampled, rtol=0, atol=1e-3)


def test_each_process_keeps_half_of_weights_averages_and_moments(runs):
    shapes = [torch.load(runs / f"shapes{rank}.pt") for rank in (0, 1)]
    for name, tensor in read(runs / "fsdp" / "last.ckpt")["ema"]["averages"]["0.9"].items():
        halves = [shape[kind][name] for shape in shapes for kind in ("shards", "averages")]
        assert halves[0] == halves[1] == (-(-tensor.shape[0] // 2), *tensor.shape[1:])
        assert halves[2] == halves[3] == (tensor.shape[0] // 2, *tensor.shape[1:])
    kept = sum(torch.Size(shape).numel() for shape in shapes[0]["moments"])
    assert kept == sum(torch.Size(s).numel() for s in shapes[0]["shards"].values()) + 64  # and half of the loss's
