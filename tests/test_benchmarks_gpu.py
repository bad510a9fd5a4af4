"""`make gpu`: parts with clocks of their own, what is done stays done, and the page that it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import page, run
from benchmarks.gpu.parts import Part, parts
from benchmarks.speed import __main__ as speed

SLEEP = "import time; time.sleep(60)"
SLEEPS = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); {SLEEP}"
PARSERS = {"benchmarks.speed": speed.parser, "benchmarks.gpu.run": run.parser}
MADE = {
    "fails": Part("fails", 20, [sys.executable, "-c", "print('why'); raise SystemExit(3)"]),
    "hangs": Part("hangs", 2, [sys.executable, "-c", SLEEPS]),
    "works": Part("works", 20, [sys.executable, "-c", "print('fine')"]),
}


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(gpu, "parts", lambda *given: list(MADE.values()))


def command(out, *more):
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--quick", "--out", str(out), *more])
    return ended.value.code


def test_a_part_that_fails_or_hangs_costs_its_own_time_alone(made, tmp_path, capsys):
    assert command(tmp_path) == 1
    kept = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["state"] for name, part in kept.items()} == {
        "fails": "failed",
        "hangs": "cut off",
        "works": "done",
    }
    assert "why" in capsys.readouterr().out
    assert kept["works"]["said"] == ["fine"]
    left = subprocess.run(["pgrep", "-f", "time.sleep[(]60[)]"], capture_output=True, text=True).stdout
    assert not left, "a process of the part that was cut off is left"


def test_what_is_done_stays_done_unless_it_is_asked_for(made, tmp_path, capsys):
    command(tmp_path, "--only", "works")
    first = json.loads((tmp_path / "gpu.json").read_text())["parts"]["works"]
    assert command(tmp_path, "--minutes", "0.01") == 0
    assert "works: done before" in capsys.readouterr().out
    assert command(tmp_path, "--only", "works", "--minutes", "0.01") == 0
    assert "no time left of 0.01 minutes" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"] == {"works": first}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--only", "speed"], "--only must be some of fails,hangs,works, got 'speed'"),
        (["--data", "nowhere.zip"], "--data must be a folder or a zip of one, got nowhere.zip"),
        (["--write-docs"], "--out .* holds no figures; run `make gpu` first"),
    ],
)
def test_mistakes_end_in_one_sentence(made, given, said, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {said}"):
        gpu.main(["--quick", "--out", str(tmp_path), *given])


def test_the_parts_are_commands_that_there_are(tmp_path):
    for quick in (False, True):
        found = parts(tmp_path, Path("pictures.zip"), quick)
        assert len({part.name for part in found}) == len(found)
        for part in found:
            if part.command[2] in PARSERS:
                PARSERS[part.command[2]]().parse_args(part.command[3:])
    assert sum(part.limit for part in parts(tmp_path, None, False)[:4]) <= 7 * 60


def test_the_page_keeps_its_head_and_tells_what_was_found(tmp_path):
    (tmp_path / "gpu.md").write_text(f"# Head\n\n{page.BEGIN}\nold\n")
    scores = {"frechet": {"value": 12.345}, "accuracy": {"value": 0.5}}
    told = {
        "command": ["train.py", "x=1"],
        "killed_after": 61.0,
        "resumed": {"from_step": 500, "to_step": 1000, "tensors": 9, "differ": 2, "largest": 0.001},
        "steps": 2500,
        "images_per_second": 4000.0,
        "losses": [[999.0, 0.25], [1999.0, 0.2]],
        "scores": [{"step": 1000, "name": "CFG 1.5", "scores": scores}],
    }
    part = {"what": "a run", "command": ["python", "-m", "x"], "state": "done", "took": 99.6, "limit": 330, "said": []}
    failed = {**part, "state": "failed", "said": ["it broke"], "result": None}
    machine = {"cpu": "C", "cores": 2, "python": "3", "torch": "9", "diffusers": "9", "lightning": "9"}
    kept = {"machine": machine, "quick": True, "parts": {"run": {**part, "result": told}, "tests": failed}}
    text = page.write(tmp_path, kept, tmp_path / "gpu.md").read_text()
    assert text.startswith("# Head\n")
    assert "old" not in text
    assert "| 1,000 | CFG 1.5 | 12.35 | 50% | 0.2500 |" in text
    assert "at step 1,000, of 9 tensors of weights, averages and optimiser 2 differ, by at most 0.001" in text
    assert "it broke" in text
    assert "the figures mean nothing" in text


def test_two_checkpoints_are_compared_tensor_by_tensor(tmp_path):
    for name, value in (("first", 2.0), ("second", 2.5)):
        state = {"state_dict": {"a": torch.ones(2), "b": torch.tensor([value, 4.0])}, "global_step": 3}
        torch.save(
            {**state, "ema": {"a": torch.ones(1)}, "optimizer_states": [{"s": [torch.ones(1)]}]}, tmp_path / name
        )
    found = run.differences(tmp_path / "first", tmp_path / "second")
    assert found == {"tensors": 4, "differ": 1, "largest": 0.125}


def test_a_run_that_ends_too_early_is_told(tmp_path):
    life = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])
    with pytest.raises(RuntimeError, match=r"train.py ended with 5 before its second checkpoint"):
        run.wait_for(lambda: False, life)
