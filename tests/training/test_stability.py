"""A loss or a gradient that is no number, and what is logged to see it coming."""

import csv
import math
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from dit.checkpoint import read
from dit.training import Rollback, RunLog, SaveCheckpoint, StabilityLog, Stop
from dit.training.stability import Usual
from tests.training.tiny import assert_same, digits, module, state, trainer


def poisoned(model, *numbers):
    """The pictures with these numbers in the run get noise that is no number."""
    draw = model.draw

    def drawn(which, batch_size, x0):
        good = draw(which, batch_size, x0)
        bad = torch.isin(which, torch.tensor(numbers, device=which.device))
        return good._replace(eps=good.eps.masked_fill(bad[:, None, None, None], math.nan))

    model.draw = drawn
    return model


def fit(folder, steps, poison=(), every=2, resume=None, on_nonfinite=None, callbacks=(), edit=None, **settings):
    data = digits(16, mirror=True)
    model = poisoned(module(data, on_nonfinite=on_nonfinite), *poison)
    if edit is not None:
        edit(model)
    run = trainer(folder, steps, [*callbacks, SaveCheckpoint(str(folder), every)], **settings)
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, run


def idle_at(*steps):
    """Those updates are not made, but counted."""

    def edit(model):
        update, before = model.ema.update, model.on_before_optimizer_step

        def clear(optimizer):
            before(optimizer)
            if model.global_step in steps:
                optimizer.zero_grad()

        def counted(network):
            if model.ema.steps in steps:
                model.ema.steps += 1
            else:
                update(network)

        model.on_before_optimizer_step, model.ema.update = clear, counted

    return edit


def rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_whole_batch_is_written_before_it_stops(tmp_path, accumulate):
    poison = 16 * 3 + 13
    told = rf"loss is not finite at step 3 \(rank 0\), .* {tmp_path}/nonfinite/step_0000003\.csv; this step's update"
    with pytest.raises(FloatingPointError, match=told):
        fit(tmp_path, 6, [poison], accumulate_grad_batches=accumulate)
    batch = rows(tmp_path / "nonfinite" / "step_0000003.csv")
    assert len(batch) == 16
    assert [row["loss"] == "nan" for row in batch] == [number == 13 for number in range(16)]
    seen = []

    def watch(model):
        losses = model.losses
        model.losses = lambda x0, y, drawn, told: seen.append((y, drawn.t)) or losses(x0, y, drawn, told)

    fit(tmp_path / "again", 4, edit=watch, accumulate_grad_batches=accumulate)
    labels, times = (torch.cat(parts[-accumulate:]) for parts in zip(*seen, strict=True))
    assert [int(row["label"]) for row in batch] == labels.tolist()
    assert [float(row["t"]) for row in batch] == pytest.approx(times.tolist(), rel=1e-12)
    expected = [2 * math.log((1 - t) / t) for t in times.tolist()]
    assert [float(row["log_snr"]) for row in batch] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert read(tmp_path / "last.ckpt")["global_step"] == 2


@pytest.mark.parametrize("kind", ["fused", "foreach"])
def test_nothing_moves_in_a_step_that_is_not_made(tmp_path, kind):
    """Weights, averages, moments and their counts are those of the steps before, bit for bit."""
    kept = []

    def edit(model):
        model._optimizer = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1, **{kind: True})
        kept.append(model)

    before = state(*fit(tmp_path / "before", 4, edit=edit))
    with pytest.raises(FloatingPointError):
        fit(tmp_path / "stopped", 9, [16 * 4 + 1], edit=edit)
    after = state(kept[-1], kept[-1].trainer)
    del before["lr"], after["lr"]  # the schedule goes on
    assert_same(before, after)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_rollback_is_a_run_without_the_lost_updates(tmp_path, capsys, accumulate):
    """At step 5 after the checkpoint of step 4: the updates 4 and 5 are lost, bit for bit; all else goes on."""
    rollback = Rollback(str(tmp_path / "a"), times=1)
    settings = {"accumulate_grad_batches": accumulate}
    ours = fit(tmp_path / "a", 9, [16 * 5 + 9], on_nonfinite=rollback, **settings)
    theirs = fit(tmp_path / "b", 9, edit=idle_at(4, 5), **settings)
    assert_same(state(*ours), state(*theirs))
    assert ours[1].global_step == 9
    said = capsys.readouterr().out
    assert "back to the weights of step 4, going on with the next batch (rollback 1 of 1)" in said
    assert read(tmp_path / "a" / "last.ckpt")["run"]["rollbacks"] == 1
    assert len(rows(tmp_path / "a" / "nonfinite" / "step_0000005.csv")) == 16


def test_a_resumed_run_rolls_back_as_the_straight_one_did(tmp_path):
    def run(name, steps, resume=None):
        folder = tmp_path / name
        return fit(folder, steps, [16 * 5 + 9], 4, resume, Rollback(str(folder), times=2))

    straight = run("a", 9)
    run("b", 7)
    (tmp_path / "b" / "last.ckpt").unlink()  # that of the end
    again = run("b", 9, tmp_path / "b" / "previous.ckpt")
    assert_same(state(*straight), state(*again))
    assert straight[0].rollbacks == again[0].rollbacks == 1


def test_it_gives_up_after_so_many(tmp_path):
    bad = [16 * step for step in (2, 4, 5)]
    with pytest.raises(FloatingPointError, match=r"at step 5 .*; giving up after 2 rollbacks \(on_nonfinite\.times\)"):
        fit(tmp_path, 9, bad, on_nonfinite=Rollback(str(tmp_path), times=2))
    with pytest.raises(FloatingPointError, match=r"at step 1 .*; no checkpoint to go back to: "):
        fit(tmp_path / "b", 9, [16], on_nonfinite=Rollback(str(tmp_path / "b")))
    with pytest.raises(ValueError, match=r"on_nonfinite\.times must be a whole number of at least 1, got 0"):
        Rollback(str(tmp_path), times=0)


def test_a_damaged_checkpoint_or_one_that_is_not_finite_is_not_gone_back_to(tmp_path, capsys):
    fit(tmp_path, 5)
    newest = tmp_path / "last.ckpt"
    contents = torch.load(newest, weights_only=True)
    contents["state_dict"]["network.final.linear.bias"][0] = math.inf

    def damage(how):
        def edit(model):
            restart = model.on_train_start
            model.on_train_start = lambda: (restart(), how())

        return edit

    for how in (lambda: newest.write_bytes(b"torn"), lambda: torch.save(contents, newest)):
        fit(
            tmp_path, 7, [16 * 5], 100, tmp_path / "previous.ckpt",
            Rollback(str(tmp_path)), edit=damage(how),
        )  # fmt: skip
        assert "back to the weights of step 4" in capsys.readouterr().out
        newest.unlink()


def test_the_log_of_losses_by_level_is_their_mean(tmp_path):
    """Against the losses themselves, over windows of three steps, of which one is cut by a resumed checkpoint."""
    seen = []

    def watch(model):
        losses = model.losses

        def watched(x0, y, drawn, told):
            value = losses(x0, y, drawn, told)
            seen.append((model.global_step, drawn.t, value.per_sample.detach()))
            return value

        model.losses = watched

    def run(name, steps, resume=None, edit=None):
        folder = tmp_path / name
        log = RunLog(str(folder))
        callbacks = [StabilityLog(edges=[-2, 0, 1.5, 4])]
        fit(folder, steps, (), 4, resume, None, callbacks, edit, logger=[log], log_every_n_steps=3)
        return rows(folder / "csv" / "version_0" / "metrics.csv")

    straight = run("a", 9, edit=watch)
    by_step = {int(row["step"]): row for row in straight if row["spikes/loss"]}
    assert list(by_step) == [2, 5, 8]
    bins = {"below_-2": (-math.inf, -2), "-2_to_0": (-2, 0), "0_to_1.5": (0, 1.5), "1.5_to_4": (1.5, 4)}
    bins["above_4"] = (4, math.inf)
    for last, row in by_step.items():
        t, losses = (
            torch.cat([part[place] for part in seen if last - 2 <= part[0] <= last]).double() for place in (1, 2)
        )
        level = 2 * ((1 - t) / t).log()
        for name, (low, high) in bins.items():
            some, logged = losses[(level >= low) & (level < high)], row.get(f"train/loss_log_snr/{name}", "")
            assert (logged == "") == (len(some) == 0)
            assert logged == "" or float(logged) == pytest.approx(float(some.mean()), rel=1e-6)
        assert 0 < float(row["ema/distance_0.9"]) < 1
    assert "" in [row["train/loss_log_snr/above_4"] for row in by_step.values()]  # nor what it was before
    run("b", 5)
    (tmp_path / "b" / "last.ckpt").unlink()
    assert run("b", 9, tmp_path / "b" / "previous.ckpt") == straight  # from step 4, in the middle of a window


def test_the_distance_of_an_average_is_relative(tmp_path):
    model, _ = fit(tmp_path, 4, callbacks=[StabilityLog()], logger=[RunLog(str(tmp_path))], log_every_n_steps=4)
    logged = {name: float(v) for r in rows(tmp_path / "csv/version_0/metrics.csv") for name, v in r.items() if v}
    flat = [torch.cat([p.detach().flatten() for p in each]) for each in (
        model.network.parameters(), model.ema.averages["0.5"].values()
    )]  # fmt: skip
    assert logged["ema/distance_0.5"] == pytest.approx(float((flat[1] - flat[0]).norm() / flat[0].norm()), rel=1e-5)


def test_what_stands_out_is_counted_and_what_lasts_becomes_usual():
    draw = random.Random(0)
    usual = Usual(spike=6)
    calm = [usual.meets(math.exp(draw.gauss(1, 0.2))) for _ in range(5000)]
    assert not any(calm)
    assert usual.mean == pytest.approx(1, abs=0.06)
    assert math.sqrt(usual.variance) == pytest.approx(0.2, abs=0.04)
    assert usual.meets(math.exp(1 + 7 * 0.2 * 1.3))
    assert not usual.meets(math.nan)
    assert not usual.meets(math.inf)
    assert usual.meets(math.exp(4))  # one does not hide the next
    assert usual.spikes == 2
    lasting = [usual.meets(math.exp(draw.gauss(4, 0.2))) for _ in range(400)]
    assert lasting[0]
    assert not any(lasting[200:])


def test_spikes_are_told_by_step(tmp_path, capsys):
    watch = StabilityLog()
    for usual in watch.usual.values():
        usual.seen, usual.mean, usual.variance = 100, -9.0, 1e-4
    fit(tmp_path, 2, callbacks=[watch], log_every_n_steps=2)
    said = capsys.readouterr().out
    assert "step 1: the loss " in said
    assert "step 1: the gradient norm " in said
    assert "stands out, usual is 0.0001234" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"edges": [1, 1]}, r"callbacks\.stability\.edges must be rising log-SNRs, got \[1, 1\]"),
        ({"edges": []}, r"callbacks\.stability\.edges must be rising log-SNRs, got \[\]"),
        ({"spike": 0}, r"callbacks\.stability\.spike must be a positive number, got 0"),
    ],
)
def test_settings_of_the_log_are_checked(given, message):
    with pytest.raises(ValueError, match=message):
        StabilityLog(**given)


def test_mfu_is_the_share_of_the_nominal_rate(monkeypatch):
    """Two GPUs of 10 TFLOPs, 100 images a second of a DiT-S/2: 3 x 2 x 6.06 GFLOPs each (Peebles and Xie, table 1)."""
    from dit.model import DiT
    from dit.training import TrainingProgress, progress

    with torch.device("meta"):
        network = DiT(32, 4, 1000, 2, 384, 12, 6)  # of 1,000 classes, for 250 steps: as published
    module = SimpleNamespace(network=network, device=torch.device("cuda"))
    monkeypatch.setattr(progress, "get_available_flops", lambda device, dtype: 10e12)
    shown = TrainingProgress()
    shown._flops = progress._flops(SimpleNamespace(precision="bf16-mixed", world_size=2), module)
    assert shown._mfu(100.0)["mfu"] == pytest.approx(100 * 6 * 6.06e9 / 20e12, rel=0.02)
    monkeypatch.setattr(progress, "get_available_flops", lambda device, dtype: None)
    shown._flops = progress._flops(SimpleNamespace(precision="bf16-mixed", world_size=2), module)
    assert shown._mfu(100.0) == {}


def test_stop_is_the_default():
    assert isinstance(module(digits(4))._on_nonfinite, Stop)
