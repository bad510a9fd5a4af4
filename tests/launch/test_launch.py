"""Each job runs once in each of its processes, with one output directory, whoever started them."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dit.launch import Ranks, check_starter, count_ranks, wait
from dit.launch.devices import adopt_group
from dit.launch.group import Group, _group
from dit.launch.ranks import forwarding

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, str(ROOT / "tests" / "launch" / "stand_in.py")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *SCRIPT[1:]]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}


def run(*command, **environment):
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, env={**ENVIRONMENT, **environment}
    )
    return done.returncode, done.stdout + done.stderr


def runs(folder):
    """What each rank wrote: who it was, its process, and what `${now:}` was to it."""
    lines = sorted((folder / "runs").read_text().splitlines())
    return [re.fullmatch(r"(.*), pid (\d+), (.*)", line).groups() for line in lines]


def check_two_ranks(folder):
    """One folder, both ranks in it once, agreeing on the time."""
    first, second = runs(folder)
    assert first[0] == "0 of 2, devices 2"
    assert second[0] == "1 of 2, devices 2"
    assert first[2] == second[2]
    assert (folder / ".hydra" / "config.yaml").is_file()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_job_of_two_devices_runs_in_two_processes(tmp_path):
    code, text = run(*SCRIPT, "a=3", "trainer.devices=2", f"hydra.run.dir={tmp_path}/${{now:%f}}")
    assert code == 0, text
    (folder,) = tmp_path.iterdir()
    check_two_ranks(folder)
    assert (folder / "result").read_text() == "3.0\n"


def test_ranks_of_torchrun_agree_on_the_folder(tmp_path):
    code, text = run(*TORCHRUN, "a=3", f"hydra.run.dir={tmp_path}/${{now:%f}}")
    assert code == 0, text
    (folder,) = tmp_path.iterdir()
    check_two_ranks(folder)


def under_srun(rank, state, *arguments):
    """One task of two of a job step, with the variables srun sets; state: the folder of the user's secret."""
    step = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "JOB_ID": 1234, "JOB_NAME": "t", "NODELIST": "127.0.0.1"}
    step |= {"STEP_NUM_TASKS": 2, "STEP_NUM_NODES": 1, "STEP_ID": 0, "STEP_NODELIST": "127.0.0.1"}
    step |= {"PROCID": rank, "LOCALID": rank, "NODEID": 0}
    env = {**ENVIRONMENT, **{f"SLURM_{key}": str(value) for key, value in step.items()}}
    del env["DITLAB_JOB_SECRET"]
    env |= {"XDG_STATE_HOME": str(state), "RANK": str(rank), "WORLD_SIZE": "2"}  # the latter two for the stand-in
    return subprocess.Popen([*SCRIPT, *arguments], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_tasks_of_srun_agree_on_the_folder(tmp_path):
    where = f"hydra.run.dir={tmp_path}/runs/${{now:%f}}"
    tasks = [under_srun(rank, tmp_path / "state", where) for rank in range(2)]
    for task in tasks:
        error = task.communicate()[1]
        assert task.returncode == 0, error
    (folder,) = (tmp_path / "runs").iterdir()
    check_two_ranks(folder)


@pytest.mark.parametrize(
    "starter", [SCRIPT, pytest.param(TORCHRUN, marks=pytest.mark.slow)], ids=["python", "torchrun"]
)
def test_a_mistake_of_all_ranks_is_said_once(starter, tmp_path):
    code, text = run(*starter, "fail=[0,1]", "trainer.devices=2", f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert text.count("error: this rank was told to fail") == 1, text
    assert "stand_in.py" not in text or starter is TORCHRUN, text  # no traceback; torchrun adds one of its own


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_others(tmp_path):
    """Rank 0 waits in a collective that rank 1 never joins."""
    code, text = run(*SCRIPT, "fail=[1]", "trainer.devices=2", f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert text.count("error:") == 1
    assert not any(alive(pid) for _, pid, _ in runs(tmp_path))


def started(tmp_path, *arguments):
    """The process that a user started, once its two ranks run, and theirs."""
    process = subprocess.Popen(
        [*SCRIPT, "trainer.devices=2", f"hydra.run.dir={tmp_path}", *arguments], cwd=ROOT, env=ENVIRONMENT
    )
    until(lambda: (tmp_path / "runs").is_file() and len(runs(tmp_path)) == 2)
    return process, [int(pid) for _, pid, _ in runs(tmp_path)]


@pytest.mark.slow
def test_no_rank_outlives_its_parent(tmp_path):
    process, ranks = started(tmp_path, "hang=true")
    process.kill()
    process.wait()
    until(lambda: not any(map(alive, ranks)), seconds=5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_ranks(number, tmp_path):
    process, ranks = started(tmp_path, "hang=true")
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert not any(map(alive, ranks))


@pytest.mark.slow
def test_a_killed_rank_is_reported(tmp_path, capfd):
    process, ranks = started(tmp_path, "hang=true")
    os.kill(ranks[1], signal.SIGKILL)
    assert process.wait(timeout=60) == 128 + signal.SIGKILL
    assert not alive(ranks[0])
    assert "error: rank 1 was ended by SIGKILL\n" in capfd.readouterr().err


FOLLOWING = """
import os, signal, time
from dit.launch.handover import InheritedFile
if os.environ["RANK"] == "1":
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
InheritedFile(int(os.environ["DITLAB_JOB_DESCRIPTOR"])).first_to_fail("the other side is gone")
raise SystemExit(1)
"""


def test_what_follows_from_a_kill_is_not_the_reason():
    """Rank 0 said and left with an error, and is seen in the same moment."""
    ranks = Ranks([sys.executable, "-c", FOLLOWING], b"job", 2)
    for process in ranks.processes:
        process.wait()
    assert wait(ranks) == 128 + signal.SIGKILL
    assert (ranks.error, ranks.death) == (None, "rank 1 was ended by SIGKILL")


DEAF = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
(folder / os.environ["RANK"]).touch()
while os.environ["RANK"] != "1" or len(list(folder.iterdir())) < 3:
    time.sleep(0.05)
sys.exit(7)
"""


def test_the_exit_code_is_that_of_the_first_to_fail(monkeypatch, tmp_path):
    """Rank 1 fails once the others are deaf to being asked to end."""
    monkeypatch.setattr("dit.launch.ranks.GRACE", 0.5)
    ranks = Ranks([sys.executable, "-c", DEAF, str(tmp_path)], b"job", 3)
    assert wait(ranks) == 7
    assert ranks.death == "rank 1 left with 7"
    assert [process.returncode for process in ranks.processes] == [-9, 7, -9]
    assert not ranks.finished


def test_signals_that_are_ignored_stay_so():
    """Under nohup, say."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with forwarding([]) as noted:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert noted == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGHUP, before[0])


@pytest.mark.slow
def test_a_sweep_cannot_be_started_by_torchrun(tmp_path):
    code, text = run(*TORCHRUN, "-m", "a=1,2", f"hydra.sweep.dir={tmp_path}")
    assert code != 0
    assert text.count("error: a sweep starts its own processes: run it without torchrun") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_ranks_have_nothing_to_do_where_the_first_only_answers(tmp_path):
    code, text = run(*TORCHRUN, "--cfg", "job")
    assert code == 0
    assert text.count("trainer:") == 1


def trainer(**changes):
    return OmegaConf.create({"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto", **changes})


@pytest.mark.parametrize(
    ("gpus", "devices", "count"),
    [
        *[(0, 1, 1), (0, 2, 2), (0, "auto", 1), (0, "2", 2), (4, 1, 1), (4, 3, 3), (4, "auto", 4), (4, -1, 4)],
        *[(4, "-1", 4), (4, [1, 3], 2), (4, "1,3", 2)],
    ],
)
def test_devices_are_counted_as_lightning_does(gpus, devices, count):
    assert count_ranks(trainer(devices=devices), gpus) == count


def test_on_the_cpu_of_a_machine_with_gpus():
    assert count_ranks(trainer(accelerator="cpu", devices=6), 4) == 6
    assert count_ranks(trainer(accelerator="cpu", devices="auto"), 4) == 1


@pytest.mark.parametrize(
    ("gpus", "changes", "sentence"),
    [
        (0, {"num_nodes": 2}, "trainer.num_nodes=2 needs torchrun or srun on every node"),
        (0, {"devices": -1}, "trainer.devices must be a number of at least 1 or auto without GPUs, got -1"),
        (0, {"devices": 0}, "trainer.devices must be a number of at least 1 or auto without GPUs, got 0"),
        (0, {"devices": True}, "trainer.devices must be a number of at least 1 or auto without GPUs, got True"),
        (0, {"accelerator": "gpu"}, "trainer.accelerator=gpu, but this process sees no GPU"),
        (2, {"devices": 3}, "trainer.devices=3, but this process sees 2 GPUs"),
        (2, {"devices": [1, 2]}, "trainer.devices=[1, 2], but this process sees 2 GPUs"),
        (2, {"devices": [1, 1]}, "trainer.devices=[1, 1], but this process sees 2 GPUs"),
        (2, {"devices": "all"}, "trainer.devices must be a number, auto, -1 or a list of GPUs, got 'all'"),
        (2, {"devices": -2}, "trainer.devices must be a number, auto, -1 or a list of GPUs, got -2"),
    ],
)
def test_devices_that_cannot_be_are_refused(gpus, changes, sentence, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpus > 0)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        count_ranks(trainer(**changes), gpus)


def test_strategies_that_start_processes_are_refused():
    with pytest.raises(ValueError, match=r"trainer\.strategy=ddp_spawn starts processes by itself; ddp leaves that"):
        check_starter(trainer(strategy="ddp_spawn"))


GROUP = Group(0, 8, 4, 2, "torchrun", ("localhost", 1), hosts=False)


@pytest.mark.parametrize("devices", [1, 4, "auto", -1])
def test_processes_that_are_there_are_the_devices(devices):
    node = trainer(devices=devices)
    adopt_group(node, GROUP)
    assert (node.devices, node.num_nodes) == (4, 2)


def test_a_list_of_gpus_stays_under_torchrun():
    node = trainer(devices=[1, 2, 5, 7])
    adopt_group(node, GROUP)
    assert node.devices == [1, 2, 5, 7]


def test_other_numbers_than_are_there_are_refused():
    with pytest.raises(ValueError, match=r"trainer\.devices=2, but torchrun started 4 processes on each node"):
        adopt_group(trainer(devices=2), GROUP)
    with pytest.raises(ValueError, match=r"trainer\.num_nodes=3, but srun started 2 nodes"):
        adopt_group(trainer(num_nodes=3), replace(GROUP, starter="srun"))


def test_a_group_is_read_from_the_environment():
    assert _group({}) is None
    elastic = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    group = _group({**elastic, "MASTER_ADDR": "host", "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert group == Group(5, 8, 4, 2, "torchrun", ("host", 1), hosts=False)
    slurm = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_JOB_ID": "123456"}
    slurm |= {"SLURM_STEP_ID": "2"}
    for nodes, first in {"gpu[07-09,12],cpu1": "gpu07", "a-1,a-2": "a-1", "one": "one", "n-[1,3]": "n-1"}.items():
        group = _group({**slurm, "SLURM_STEP_NODELIST": nodes})
        assert group == Group(3, 8, 4, 2, "srun", (first, None), hosts=True, name="123456.2")
    one = {**slurm, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "n"}
    assert _group(one).address == ("127.0.0.1", None)
    assert _group({**one, "MASTER_ADDR": "n", "MASTER_PORT": "7"}).address == ("n", 7)
    assert _group({**slurm, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert _group({**slurm, "SLURM_PTY_PORT": "1", "SLURM_STEP_NODELIST": "n"}) is None


@pytest.mark.slow
def test_a_bug_shows_the_traceback_of_one_rank(tmp_path):
    code, text = run(*SCRIPT, "seconds=x", "trainer.devices=2", f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert text.count("Traceback") == text.count("TypeError") == 1, text


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["python", "torchrun"])
def test_training_in_two_processes(starter, tmp_path):
    """Both write one run folder, with what one process of the same batch would measure there."""
    command = {"python": [sys.executable], "torchrun": TORCHRUN[:-1]}[starter]
    devices = {"python": ["trainer.devices=2"], "torchrun": []}[starter]
    options = ["experiment=digits", "debug=fast", "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path}"]
    code, text = run(*command, ROOT / "train.py", *devices, *options)
    assert code == 0, text
    assert text.count("step 4/4  loss") == 1
    assert text.count("GLOBAL_RANK") == 0
    assert [f.name for f in (tmp_path / "csv").iterdir()] == ["version_0"]
    contents = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert contents["global_step"] == 4
    assert contents["metadata"]["config"]["trainer"]["devices"] == 2
