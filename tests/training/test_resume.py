"""A run that was interrupted goes on: which checkpoint it trusts, what it refuses, and that nothing is lost."""

import csv
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest
import torch
from lightning import Callback

from dit.checkpoint import Metadata, check_sums, read
from dit.checkpoint.reading import unpickled
from dit.launch import Task
from dit.training import RenamedCheckpointIO, RunLog, SaveCheckpoint, find_start
from dit.training.draws import uniforms
from tests.checkpoint.ours import passport
from tests.training.tiny import assert_same, digits, module, state, trainer

ROOT = Path(__file__).parent.parent.parent


def fit(folder, steps, resume=None, every=2, callbacks=(), settings=None, **changes):
    data = digits(16, mirror=True)
    model = module(data, **changes)
    save = SaveCheckpoint(str(folder), every_n_steps=every)
    run = trainer(folder, steps, [*callbacks, save], **(settings or {}))
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, run


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)


def test_no_flipped_byte_changes_what_is_read(tmp_path):
    """Of every ninth byte of a file: reading it refuses, or gives what was written. torch alone gives other numbers."""
    file, contents = (
        tmp_path / "a.ckpt",
        {"a": torch.arange(40.0), "b": [torch.ones(3), 1.5, "text"]},
    )
    RenamedCheckpointIO().save_checkpoint(contents, file)
    whole, refused, silent = file.read_bytes(), 0, 0
    for place in range(3, len(whole), 9):
        flip(file, place)
        try:
            again = unpickled(file, "resume")
        except ValueError:
            refused += 1
        else:
            assert torch.equal(again["a"], contents["a"])
            assert torch.equal(again["b"][0], contents["b"][0])
            assert again["b"][1:] == contents["b"][1:]
        with suppress(Exception):
            silent += not torch.equal(torch.load(file, weights_only=True)["a"], contents["a"])
        file.write_bytes(whole)
    assert refused > 17  # the bytes of the first tensor alone
    assert silent >= 17


def test_a_flipped_weight_is_found(tmp_path):
    fit(tmp_path, 1)
    file = tmp_path / "last.ckpt"
    check_sums(file, "resume")
    flip(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"checkpoint=.*last\.ckpt is damaged: .* is not what was written"):
        read(file)
    with pytest.raises(ValueError, match=r"resume=.*last\.ckpt is damaged"):
        fit(tmp_path, 3, resume=file)


def test_the_checkpoint_before_is_kept_and_what_killed_runs_left_is_removed(tmp_path):
    tmp_path.joinpath(".last.ckpt.77.tmp").write_bytes(b"half")
    fit(tmp_path, 5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert [read(tmp_path / name)["global_step"] for name in ("last.ckpt", "previous.ckpt")] == [5, 4]
    fit(tmp_path, 7, resume=tmp_path / "last.ckpt", every=100)
    assert [read(tmp_path / name)["global_step"] for name in ("last.ckpt", "previous.ckpt")] == [7, 5]


def test_a_damaged_file_never_takes_the_place_of_a_good_one(tmp_path):
    fit(tmp_path, 5)
    (tmp_path / "last.ckpt").write_bytes(b"torn")
    fit(tmp_path, 6, resume=tmp_path / "previous.ckpt", every=100)
    assert [read(tmp_path / name)["global_step"] for name in ("last.ckpt", "previous.ckpt")] == [6, 4]


class Hints(Callback):
    """A signal comes before the first step, during the first preview, say."""

    def on_train_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_before_the_first_step_is_no_success(tmp_path, capsys):
    """Lightning's own handler would leave with exit code 0."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path, 3, callbacks=[Hints()])
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at step 0, before the first" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def small_disk():
    """Files of this process may grow to 10 kB, as if the disk were full then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_fills_up_stops_with_a_sentence_and_loses_nothing(tmp_path, small_disk):
    fit(tmp_path, 2)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    small_disk()
    message = rf"cannot write the checkpoint .*last\.ckpt: {os.strerror(errno.EFBIG)}; earlier ones are kept"
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, 4, resume=tmp_path / "last.ckpt")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made_stops_with_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot write the checkpoint .*last\.ckpt: Not a directory"):
        fit(tmp_path / "file" / "folder", 2)


@pytest.mark.parametrize("name", ["metrics.csv", None])
def test_a_full_disk_is_one_sentence_whoever_meets_it(name, capsys, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    task = Task(fit, object, None, (ROOT, "train"))
    with pytest.raises(SystemExit, match="1"), task._one_sentence(None, sweeping=False):
        raise OSError(errno.ENOSPC, "No space left on device", name)
    with pytest.raises(SystemExit, match="1"), task._one_sentence(None, sweeping=False):
        raise PermissionError(errno.EACCES, "Permission denied", name)
    what = name or "a file of this run"
    said = [f"error: {why}: {what} cannot be written" for why in ("No space left on device", "Permission denied")]
    assert capsys.readouterr().err.splitlines() == said
    with pytest.raises(FileNotFoundError), task._one_sentence(None, sweeping=False):
        Path("gone").read_text()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_another_accumulation_goes_on_with_the_same_pictures_and_draws(tmp_path, capsys, monkeypatch, before, after):
    seen = {}

    def watched(name, steps, accumulate, resume=None):
        data = digits(16, mirror=True)
        model = module(data)
        losses, seen[name] = model.losses, []

        def drawn(seed, what, numbers):
            u = uniforms(seed, what, numbers)
            if what == "time":
                seen[name].append([u.tolist()])
            return u

        def watch(x0, labels, randomness, conditions):
            seen[name][-1] += [labels.tolist(), randomness.t.tolist()]
            return losses(x0, labels, randomness, conditions)

        monkeypatch.setattr("dit.training.module.uniforms", drawn)
        model.losses = watch
        run = trainer(
            tmp_path / name, steps, [SaveCheckpoint(str(tmp_path / name), 100)], accumulate_grad_batches=accumulate
        )
        run.fit(model, data, ckpt_path=resume, weights_only=True)
        return state(model, run)

    straight = watched("straight", 8, 1)
    watched("begun", 5, before)
    (tmp_path / "resumed").mkdir()
    (tmp_path / "begun" / "last.ckpt").rename(tmp_path / "resumed" / "last.ckpt")
    resumed = watched("resumed", 8, after, resume=tmp_path / "resumed" / "last.ckpt")
    mine, theirs = (
        [list(chain.from_iterable(column)) for column in zip(*batches, strict=True)]
        for batches in (seen["begun"] + seen["resumed"], seen["straight"])
    )
    assert mine[:2] == theirs[:2]  # numbers drawn and labels
    # The last digit of a quantile depends on how many are computed at once.
    assert mine[2] == pytest.approx(theirs[2], abs=1e-6)
    for name, tensor in straight.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-3, atol=1e-4)
    said = f"a batch is now 1 processes x {after} accumulated, before 1 x {before}: the same pictures in the same order"
    assert (said in capsys.readouterr().out) == (before != after)


MACHINE = ("images_per_second", "memory_gib")


def log(folder):
    """Every scalar that was logged, but those of the machine."""
    with (folder / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key not in MACHINE} for row in rows]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_log_goes_on_as_if_nothing_had_happened(tmp_path, accumulate):
    """Stopped at step 6 with a validation, after the checkpoint of step 4, in the middle of writing a line."""

    def run(name, steps, resume=None):
        folder = tmp_path / name
        logged = {"logger": [RunLog(str(folder))], "log_every_n_steps": 1, "val_check_interval": 2 * accumulate}
        logged["accumulate_grad_batches"] = accumulate
        return state(*fit(folder, steps, resume, every=4, settings=logged))

    straight = run("straight", 9)
    run("broken", 6)
    assert len(log(tmp_path / "broken")) == 6 + 3
    (tmp_path / "broken" / "last.ckpt").unlink()  # that of the end
    with (tmp_path / "broken" / "csv" / "version_0" / "metrics.csv").open("a") as file:
        file.write("0.5,1,x\r\n0.5,1")
    assert_same(straight, run("broken", 9, resume=tmp_path / "broken" / "previous.ckpt"))
    assert log(tmp_path / "broken") == log(tmp_path / "straight")
    assert len(log(tmp_path / "straight")) == 9 + 4


CONFIG = {"seed": 0, "optimizer": {"lr": 1.0}, "model": {"attention": "sdpa"}, "trainer": {"devices": 1}}


def test_auto_takes_the_newest_good_checkpoint_and_says_so(tmp_path, capsys, monkeypatch):
    def find(steps=9, config=CONFIG):
        return find_start("auto", tmp_path, steps, config)

    assert find().file is None
    fit(tmp_path, 5)
    for file in (tmp_path / "last.ckpt", tmp_path / "previous.ckpt"):
        contents = torch.load(file, weights_only=True)
        contents["metadata"]["config"] = CONFIG
        contents["run"]["validation_loss"] = 0.25
        torch.save(contents, file)
    assert find_start(None, tmp_path, 9, CONFIG).file is None
    assert find().file == tmp_path / "last.ckpt"
    assert f"resuming {tmp_path / 'last.ckpt'} at step 5" in capsys.readouterr().out
    other = {**CONFIG, "trainer": {"devices": 2}, "model": {"attention": "flash"}}
    assert find(config=other).file == tmp_path / "last.ckpt"
    finished = find(steps=5)
    assert finished.finished
    assert finished.validation_loss == 0.25
    assert "last.ckpt is at step 5 of trainer.max_steps=5" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"last\.ckpt is of a run with optimizer\.lr=1\.0, not 2\.0; choose another"):
        find(config={**CONFIG, "optimizer": {"lr": 2.0}})
    flip(tmp_path / "last.ckpt", 5000)
    assert find().file == tmp_path / "previous.ckpt"
    assert "is damaged: " in (said := capsys.readouterr().out)
    assert "going back to the one before" in said
    (tmp_path / "previous.ckpt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"no checkpoint is left to resume: .* is damaged: .*; .* is truncated or no"):
        find()


TINY = {
    "experiment": "digits",
    "trainer": "cpu",
    "model.hidden_size": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "data.batch_size": 8,
    "data.validation_images": 16,
    "trainer.max_steps": 600,
    "trainer.log_every_n_steps": 5,
    "validate_every": 50,
    "lr_schedule.warmup": 5,
    "callbacks.checkpoint.every_n_steps": 20,
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}


def test_a_run_of_an_older_version_goes_on_though_keys_were_added_and_renamed_since(tmp_path):
    fit(tmp_path, 2)
    contents = torch.load(tmp_path / "last.ckpt", weights_only=True)
    old = passport(Metadata.from_dict(contents.pop("metadata")))
    old["config"] = {"model": {"depth": 1, "class_dropout": 0.1}, "loss": {"_target_": "dit.diffusion.MSE"}, "seed": 0}
    old["config"]["scheduler"] = {"warmup": 5}
    torch.save({**contents, "passport": old}, tmp_path / "last.ckpt")
    now = {"model": {"depth": 1, "qk_norm_eps": 1e-6}, "loss": {"_target_": "dit.objectives.MSE"}, "seed": 0}
    now["lr_schedule"] = {"warmup": 5}
    assert find_start("auto", tmp_path, 9, now | {"dropout": {"class": 0.1}}).file == tmp_path / "last.ckpt"
    for changes, key in (
        ({"dropout": {"class": 0.2}}, "dropout.class=0.1, not 0.2"),
        ({"seed": 1}, "seed=0, not 1"),
        ({"lr_schedule": {"warmup": 6}}, "lr_schedule.warmup=5, not 6"),
    ):
        with pytest.raises(ValueError, match=rf"is of a run with {key}"):
            find_start("auto", tmp_path, 9, now | {"dropout": {"class": 0.1}} | changes)


def command(folder, *more):
    return [
        sys.executable,
        "train.py",
        *(f"{key}={value}" for key, value in TINY.items()),
        f"hydra.run.dir={folder}",
        *more,
    ]


def train(folder, *more):
    done = subprocess.run(command(folder, *more), cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT)
    return done.returncode, done.stdout + done.stderr


def begin(folder, *more):
    """A run in a process of its own, once it has two checkpoints."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command(folder, *more), cwd=ROOT, env=ENVIRONMENT, **pipe)
    end = time.monotonic() + 300
    while not (folder / "checkpoints" / "previous.ckpt").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    code, text = train(folder)
    assert code == 0, text
    return folder


def assert_same_end(folder, undisturbed):
    theirs, ours = (read(where / "checkpoints" / "last.ckpt") for where in (undisturbed, folder))
    assert ours["global_step"] == theirs["global_step"] == 600
    assert ours["run"] == theirs["run"]
    for part in ("state_dict", "ema", "optimizer_states", "lr_schedulers"):
        sides = [dict(leaves(contents[part])) for contents in (theirs, ours)]
        assert_same(*sides)
    assert log(folder) == log(undisturbed)


def leaves(node, name=""):
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{name}/{key}")
    elif not isinstance(node, str | None):
        yield name, torch.as_tensor(node)


@pytest.mark.slow
def test_kill_9_and_the_same_command_again_is_the_undisturbed_run(tmp_path, undisturbed):
    process = begin(tmp_path)
    process.kill()
    process.wait()
    step = read(tmp_path / "checkpoints" / "last.ckpt")["global_step"]
    assert 20 < step < 600
    code, text = train(tmp_path)
    assert code == 0, text
    assert f"last.ckpt at step {step}" in text
    assert_same_end(tmp_path, undisturbed)
    code, text = train(tmp_path)
    assert code == 0
    assert "finished before: " in text
    code, text = train(tmp_path, "optimizer.lr=0.5")
    assert code == 1
    assert "last.ckpt is of a run with optimizer.lr=" in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, undisturbed, number):
    never = "callbacks.checkpoint.every_n_steps=100000"
    process = begin(tmp_path)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, text
    assert "Traceback" not in text
    step = read(tmp_path / "checkpoints" / "last.ckpt")["global_step"]
    assert f"stopped by {signal.Signals(number).name} at step {step}: the same command goes on" in text
    code, text = train(tmp_path, never)
    assert code == 0, text
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.slow
def test_one_rank_is_asked_to_stop_and_one_process_goes_on(tmp_path):
    """Two processes save together, though one of them alone was told; the order of pictures goes on in one."""
    process = begin(tmp_path, "trainer.devices=2")
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, text
    assert text.count("stopped by SIGTERM at step ") == 1
    assert "Traceback" not in text
    assert "error: " not in text
    code, text = train(tmp_path)
    assert code == 0, text
    assert "a batch is now 1 processes x 1 accumulated, before 2 x 1: the same pictures in the same order" in text
    assert read(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 600
