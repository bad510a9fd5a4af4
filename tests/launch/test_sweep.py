"""A sweep on slots: every trial once, one folder a trial, whatever happens to the launcher in between."""

import json
import re
import signal
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

from dit.launch import Manifest, Slots, Sweep, Task, Trial, TrialPlan
from hydra_plugins.ditlab import SlotLauncher
from tests.launch.test_launch import ENVIRONMENT, ROOT, SCRIPT, alive, check_two_ranks, run, runs, until

CONFIGS = f"hydra.searchpath=[file://{ROOT}/configs]"
SLOTS = ["hydra/launcher=slots", CONFIGS]


def states(folder):
    file = folder / "sweep.json"
    return [t["state"] for t in json.loads(file.read_text())["trials"]] if file.exists() else []


def folders(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def test_a_broken_trial_ends_neither_the_sweep_nor_the_others_and_goes_on(tmp_path):
    command = [*SCRIPT, "-m", *SLOTS, "hydra.launcher.slots=2", f"hydra.sweep.dir={tmp_path}", "a=-1,1,2"]
    code, text = run(*command, "fail=[0]", "b=5")
    assert code == 1
    assert states(tmp_path) == ["failed"] * 3
    assert not (tmp_path / "0").exists()  # refused before anything was made
    assert "#0 failed: error: a must be a whole number of at least 0, got -1" in text
    assert "#1 failed: error: this rank was told to fail" in text
    assert "0 of 3 trials finished; failed: #0, #1, #2" in text
    assert "Traceback" not in text
    assert (tmp_path / "1" / "output.log").read_text() == "error: this rank was told to fail\n"

    # As if trial 1 had been repaired: the same command, and the folder of trial 2 as a finished one leaves it.
    manifest = json.loads((tmp_path / "sweep.json").read_text())
    manifest["trials"][2] |= {"state": "finished", "value": 7.0, "error": None}
    (tmp_path / "sweep.json").write_text(json.dumps(manifest))
    (tmp_path / "1" / "left over").touch()
    code, text = run(*command, "fail=[0]", "b=5")
    assert code == 1
    assert states(tmp_path) == ["failed", "failed", "finished"]
    assert len(runs(tmp_path / "2")) == 1
    assert (tmp_path / "1" / "left over").exists()  # what it left is gone on with
    assert (tmp_path / "1" / "output.log").read_text() == 2 * "error: this rank was told to fail\n"
    assert "3 trials, 1 finished before" in text


@pytest.mark.slow
def test_a_killed_sweep_is_resumed(tmp_path):
    """Six trials of two processes on two slots; the launcher is killed while the fourth, trial 3, runs."""
    command = [*SCRIPT, "-m", *SLOTS, "a=1,2", "b=3,4,5", "trainer.devices=2", "trainer.strategy=ddp", "seconds=1"]
    command += ["hydra.launcher.slots=2", f"hydra.sweep.dir={tmp_path}"]
    launcher = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
    until(lambda: (tmp_path / "3" / "runs").exists(), seconds=300)
    launcher.kill()
    launcher.wait()
    interrupted = states(tmp_path)
    assert "running" in interrupted[2:]
    assert interrupted.count("running") == 2
    done = {
        name: runs(tmp_path / name) for name, state in zip("012345", interrupted, strict=True) if state == "finished"
    }
    assert done
    pids = [
        int(pid)
        for name in folders(tmp_path)
        if (tmp_path / name / "runs").exists()
        for _, pid, _ in runs(tmp_path / name)
    ]
    until(lambda: not any(map(alive, pids)), seconds=5)
    for name in set(folders(tmp_path)) - done.keys():
        (tmp_path / name / "runs").unlink(missing_ok=True)  # broken trials go on in their folders

    code, text = run(*command)
    assert code == 0, text
    assert f"6 trials, {len(done)} finished before" in text
    assert states(tmp_path) == ["finished"] * 6
    assert folders(tmp_path) == list("012345")
    for name, value in zip("012345", (4.0, 5.0, 6.0, 5.0, 6.0, 7.0), strict=True):
        check_two_ranks(tmp_path / name)
        assert float((tmp_path / name / "result").read_text()) == value
        if name in done:
            assert runs(tmp_path / name) == done[name]
    values = [trial["value"] for trial in json.loads((tmp_path / "sweep.json").read_text())["trials"]]
    assert values == [4.0, 5.0, 6.0, 5.0, 6.0, 7.0]


@pytest.mark.slow
def test_a_signal_ends_a_sweep_and_its_trials(tmp_path):
    command = [*SCRIPT, "-m", *SLOTS, "a=1,2", "seconds=600", f"hydra.sweep.dir={tmp_path}"]
    launcher = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
    until(lambda: (tmp_path / "0" / "runs").exists())
    ((_, pid, _),) = runs(tmp_path / "0")
    code, text = run(*command)
    assert code == 1
    assert f"error: hydra.sweep.dir={tmp_path} belongs to a sweep that is still running" in text
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=60) == 128 + signal.SIGTERM
    assert not alive(pid)
    assert states(tmp_path) == ["failed", "queued"]
    assert json.loads((tmp_path / "sweep.json").read_text())["trials"][0]["error"] == "rank 0 was ended by SIGTERM"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "extra"),
    [("basic", []), ("joblib", ["hydra.launcher.n_jobs=2"]), ("submitit_local", [])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_launchers_run_each_job_once(launcher, extra, tmp_path):
    """Their workers compose the job, and it runs in two processes that the worker starts."""
    pytest.importorskip({"basic": "hydra", "joblib": "joblib", "submitit_local": "submitit"}[launcher])
    command = [*SCRIPT, "-m", CONFIGS, f"hydra/launcher={launcher}", *extra, "a=1,2", "b=3,4", "trainer.devices=2"]
    code, text = run(*command, "trainer.strategy=ddp", f"hydra.sweep.dir={tmp_path}")
    assert code == 0, text
    assert [name for name in folders(tmp_path) if name != ".submitit"] == list("0123")
    for name in "0123":
        check_two_ranks(tmp_path / name)


@pytest.mark.slow
def test_optuna_minimises_what_the_script_returns_and_is_resumed(tmp_path):
    pytest.importorskip("optuna")
    command = [*SCRIPT, "-m", *SLOTS, "hydra/sweeper=tpe", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"]
    command += ["hydra.launcher.slots=2", "a=range(-1,3)", "b=interval(0.0,1.0)", f"hydra.sweep.dir={tmp_path}"]
    code, _ = run(*command)
    trials = json.loads((tmp_path / "sweep.json").read_text())["trials"]
    assert len(trials) == 4
    finished = [trial for trial in trials if trial["state"] == "finished"]
    assert code == (len(finished) < 4)
    for trial in finished:
        a, b = (float(trial["overrides"][k].partition("=")[2]) for k in (0, 1))
        assert trial["value"] == pytest.approx(a + b)
    best = re.search(r"best_value: (.*)", (tmp_path / "optimization_results.yaml").read_text())
    assert float(best[1]) == min(trial["value"] for trial in finished)
    before = {trial["number"]: runs(tmp_path / trial["folder"]) for trial in finished}
    run(*command)
    again = json.loads((tmp_path / "sweep.json").read_text())["trials"]
    assert [trial["overrides"] for trial in again] == [trial["overrides"] for trial in trials]
    assert before == {number: runs(tmp_path / str(number)) for number in before}


@pytest.mark.parametrize("name", ["joblib", "slurm", "submitit_local"])
def test_configurations_of_other_launchers_compose(name, tmp_path):
    """Those shipped here, and those of the plugins that the documents name."""
    pytest.importorskip({"joblib": "joblib"}.get(name, "submitit"))
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        hydra = compose("train", [f"hydra/launcher={name}"], return_hydra_config=True).hydra
        assert hydra.launcher._target_.startswith("hydra_plugins.hydra_")
        assert compose("train", [], return_hydra_config=True).hydra.launcher._target_.endswith("SlotLauncher")


def script(folder, code):
    """A trial whose one process runs `code`; it is no Task, and says nothing back."""

    def prepare():
        folder.mkdir(parents=True)
        return [sys.executable, "-c", code], b"job"

    return prepare


def test_gpus_are_handed_out_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc,7")
    slots, code = Slots(None), "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['RANK'])"
    assert (slots.gpus, slots.total) == (3, 3)
    with Manifest(tmp_path) as manifest:
        trials = [manifest.add(Trial(k, [f"a={k}"], "digest", str(k))) for k in range(3)]
        sizes = [2, 1, 3]
        planned = [
            TrialPlan(trial, size, 1, script(tmp_path / trial.folder, code))
            for trial, size in zip(trials, sizes, strict=True)
        ]
        Sweep(manifest, slots, Console(quiet=True)).run(planned)
    said = [(tmp_path / str(k) / "output.log").read_text() for k in range(3)]
    assert said == ["4,GPU-abc 0\n", "7 0\n", "4,7,GPU-abc 0\n"]
    assert [trial.state for trial in trials] == ["failed"] * 3  # exit code 0, but none came to its end as a job
    assert trials[0].error == "ended before it was through"
    assert trials[0].exit_code == 0


@pytest.mark.parametrize(
    ("launcher", "trainer", "expected"),
    [
        ({}, {}, (1, 1)),
        ({}, {"devices": 2}, (2, 2)),
        ({}, {"devices": "auto"}, (4, 4)),
        ({"gpus_per_job": 2}, {"devices": "auto"}, (2, 2)),
        ({"gpus_per_job": 2}, {}, (2, 1)),
        ({}, {"devices": 6, "accelerator": "cpu"}, (4, 6)),
        ({"slots": 3}, {"devices": 2}, (1, 2)),
        ({"slots": 3}, {"devices": -1}, (1, 4)),
        ({"gpus_per_job": 1}, {"devices": 2}, "trainer.devices=2, but this process sees 1 GPUs"),
        ({}, {"devices": [2, 3]}, "trainer.devices=[2, 3], but this process sees 2 GPUs"),
        ({}, {"devices": 5}, "trainer.devices=5, but this process sees 4 GPUs"),
    ],
)
def test_gpus_and_processes_of_a_trial(launcher, trainer, expected, monkeypatch):
    """On a machine of four GPUs: (slots it takes, processes it runs in), or why not."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("hydra_plugins.ditlab._task_config", lambda config: config)
    config = OmegaConf.create({"trainer": {"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto"}})
    config.trainer.merge_with(trainer)
    slots = SlotLauncher(**launcher)
    slots.task = Task(test_slots_without_gpus, object, "trainer", (ROOT, "train"))
    trial = Trial(0, [], "digest", "0")
    plan = slots._plan(trial, config, Slots(slots.slots), Console(quiet=True))
    assert (trial.error if plan is None else (plan.slots, plan.ranks)) == expected


def test_slots_without_gpus():
    assert Slots(None).total == max(1, torch.cuda.device_count())
    slots = Slots(2)
    assert (slots.take(1), slots.take(1), slots.take(1)) == (["0"], ["1"], None)
    slots.give_back(["0"])
    assert slots.take(1) == ["0"]
    assert slots.environment(["0"]) == {}


def test_a_manifest_is_read_back_and_guards_its_folder(tmp_path):
    trial = Trial(0, ["a=1"], "digest", "0")
    with Manifest(tmp_path) as manifest:
        manifest.add(trial).state = "finished"
        manifest.write()
        with pytest.raises(ValueError, match="belongs to a sweep that is still running"), Manifest(tmp_path):
            pass
    with Manifest(tmp_path) as manifest:
        assert manifest.add(Trial(0, ["a=1"], "digest", "0")).state == "finished"
        with pytest.raises(ValueError, match=r"trial 0 was a=1, and its overrides changed"):
            manifest.add(Trial(0, ["a=2"], "digest", "0"))
        with pytest.raises(ValueError, match=r"trial 0 was a=1, and the configuration behind its overrides changed"):
            manifest.add(Trial(0, ["a=1"], "other", "0"))
        (tmp_path / "1").mkdir()
        with pytest.raises(ValueError, match=r"holds 1, which is not of this sweep"):
            manifest.add(Trial(1, ["a=2"], "digest", "1"))
        for folder in (".", "..", "0", "/tmp"):
            with pytest.raises(ValueError, match=r"must be a folder in hydra.sweep.dir, one a trial"):
                manifest.add(Trial(2, ["a=3"], "digest", folder))
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ValueError, match=r"sweep.json is no manifest of a sweep"), Manifest(tmp_path):
        pass


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"slots": 0}, "hydra.launcher.slots must be null or a whole number of at least 1, got 0"),
        ({"gpus_per_job": True}, "hydra.launcher.gpus_per_job must be null or a whole number of at least 1, got True"),
        ({"gpus_per_job": 1, "slots": 1}, "hydra.launcher.slots shares all GPUs, hydra.launcher.gpus_per_job divides"),
    ],
)
def test_mistakes_in_the_launcher_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        SlotLauncher(**arguments)
