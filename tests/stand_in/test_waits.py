"""The host never waits for the device in a training step that writes no log row, nor between two sampling steps."""

import pytest
import torch

from dit.checkpoint import read
from dit.solvers import CFG, Euler, make_grid, sample
from dit.training import Rollback, StabilityLog
from tests.stand_in.device import NAME, waits
from tests.stand_in.lightning import CountWaits, on_stand_in
from tests.training.test_stability import fit, idle_at, rows
from tests.training.tiny import assert_same, digits, module, state, trainer


def there(state):
    return {name: tensor.cpu() for name, tensor in state.items()}


def test_a_training_step_that_writes_no_row_does_not_wait(tmp_path):
    """In the first step Lightning makes the sums of what is logged."""
    ends, count = [], CountWaits()
    for where, callbacks in (({}, [StabilityLog()]), (on_stand_in(), [StabilityLog(), count])):
        data = digits(16, mirror=True)
        run, model = trainer(tmp_path, 8, callbacks, log_every_n_steps=4, **where), module(data)
        run.fit(model, data)
        ends.append(there(state(model, run)))
    assert len(count.steps) == 8
    waited = {step for step, found in enumerate(count.steps) if found}
    assert waited - {0} == {3, 7}, [count.steps[step] for step in sorted(waited - {0, 3, 7})]
    for name, tensor in ends[0].items():  # the CPU has a kernel for attention of its own
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("bad", [5, 7, 8])
def test_a_rollback_there_is_a_run_without_the_lost_updates(tmp_path, bad):
    """Bit for bit, where a row of the log follows, or a checkpoint, or nothing."""
    ends, settings = [], {"log_every_n_steps": 6}
    lost = range(4 * (bad // 4), bad + 1)
    for name, more in (("a", {"poison": [16 * bad + 9]}), ("b", {"edit": idle_at(*lost)})):
        folder = tmp_path / name
        more |= {"every": 4, "on_nonfinite": Rollback(str(folder))}
        model, run = fit(folder, 10, **more, **settings, **on_stand_in())
        ends.append(there(state(model, run)))
    assert_same(*ends)
    assert len(rows(tmp_path / "a" / "nonfinite" / f"step_{bad:07d}.csv")) == 16


def test_a_stop_there_is_that_of_the_cpu(tmp_path):
    said = []
    for where in ({}, on_stand_in()):
        with pytest.raises(FloatingPointError) as stopped:
            fit(tmp_path / str(len(said)), 9, [16 * 4 + 9], 4, **where)
        said.append(str(stopped.value).replace(f"/{len(said)}/", "/"))
        assert read(tmp_path / str(len(said) - 1) / "last.ckpt")["global_step"] == 4
    assert said[0] == said[1]


def test_validation_waits_once_and_not_for_each_batch(tmp_path):
    counts = []
    for batches in (2, 4):
        data, count = digits(16, validation_batch_size=32 // batches), CountWaits()
        trainer(tmp_path, 3, [count], val_check_interval=2, log_every_n_steps=100, **on_stand_in()).fit(
            module(data), data
        )
        counts.append(count.steps[1])
    assert len(counts[0]) == len(counts[1]), counts


def test_sampling_does_not_wait_between_its_steps():
    model = module(digits(4)).to(NAME)
    noise, labels = torch.randn(4, 1, 8, 8, device=NAME), torch.arange(4, device=NAME)
    grid = make_grid(model.denoiser.path, 4)
    by_step = []
    with waits() as found:

        def on_step(context, x):
            by_step.append(list(found))
            found.clear()

        sample(model.denoiser, noise, labels, grid=grid, guidance=CFG(2.0), solver=Euler(), on_step=on_step)
    assert len(by_step[0]) <= 1  # the labels
    assert by_step[1:] == [[]] * 3
    assert len(found) <= 1  # whether all was finite
