"""A run folder belongs to one process at a time, and is looked at before anything is written."""

import os
import re
import signal
import subprocess

import pytest

from dit.launch import held
from tests.launch.test_launch import ENVIRONMENT, ROOT, SCRIPT, run, runs, until
from tests.launch.test_sweep import SLOTS, states

CHECK = "+hydra.callbacks.folder._target_=dit.launch.CheckFolder"


def forked(body):
    """The exit code of a copy of this process that does `body`."""
    if (pid := os.fork()) == 0:
        try:
            body()
            os._exit(0)
        except ValueError:
            os._exit(7)
        finally:
            os._exit(8)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def take(folder):
    with held(folder):
        pass


def test_a_second_process_is_refused_until_the_first_lets_go(tmp_path):
    with held(tmp_path):
        assert forked(lambda: take(tmp_path)) == 7
    assert forked(lambda: take(tmp_path)) == 0

    def refused():
        with pytest.raises(ValueError, match=rf"hydra\.run\.dir={tmp_path} belongs to a run that is still going on; w"):
            take(tmp_path)

    with held(tmp_path):
        assert forked(refused) == 0


def test_a_killed_process_lets_go_though_its_data_workers_live_on(tmp_path):
    reading, writing = os.pipe()

    def train():
        with held(tmp_path):
            if (worker := os.fork()) == 0:
                signal.pause()
            os.write(writing, str(worker).encode())
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(train) == -signal.SIGKILL
    worker = int(os.read(reading, 20))
    try:
        os.kill(worker, 0)
        take(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_command_beside_itself_is_refused_and_touches_nothing(tmp_path, devices):
    """Whether the launcher holds it, or rank 0; once the first is killed, the next one may."""
    command = [*SCRIPT, CHECK, f"trainer.devices={devices}", f"hydra.run.dir={tmp_path}"]
    first = subprocess.Popen([*command, "seconds=600"], cwd=ROOT, env=ENVIRONMENT)
    until(lambda: (tmp_path / "runs").is_file() and len(runs(tmp_path)) == devices)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    code, text = run(*command, "a=5")
    why = "belongs to a run that is still going on; wait for its end or choose another"
    assert (code, text) == (1, f"reading the configuration\nerror: hydra.run.dir={tmp_path} {why}\n")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    first.kill()
    first.wait()
    code, text = run(*command, "a=5")
    assert code == 0, text


def test_a_trial_is_not_run_in_the_folder_of_a_run(tmp_path):
    sweep = [*SCRIPT, "-m", *SLOTS, "a=1", f"hydra.sweep.dir={tmp_path}"]
    code, text = run(*sweep, "fail=[0]")
    assert states(tmp_path) == ["failed"], text
    with held(tmp_path / "0"):
        code, text = run(*sweep, "fail=[0]")
    assert code == 1
    assert "#0 failed: error: hydra.run.dir=" in text
    assert "belongs to a run that is still going on" in text
    code, text = run(*sweep, "fail=[0]")
    assert "#0 failed: error: this rank was told to fail" in text


@pytest.mark.parametrize(("arguments", "key"), [([], "hydra.run.dir"), (["-m", "a=1"], "hydra.sweep.dir")])
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, arguments, key):
    (tmp_path / "file").touch()
    code, text = run(*SCRIPT, *arguments, CHECK, f"{key}={tmp_path}/file/run")
    assert code == 1
    assert re.fullmatch(
        rf"reading the configuration\nerror: {key}={tmp_path}/file/run cannot be written: Not a directory\n", text
    ), text
