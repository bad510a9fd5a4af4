"""PyTorch comes last: help, completion and the refusal of a typo do without it, and the first word precedes it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dit.checkpoint.reference import FAMILIES
from dit.checkpoint.sources import SOURCES

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "lightning", "torchvision", "sklearn", "scipy", "matplotlib"}
SCRIPTS = ["train.py", "sample.py", "evaluate.py"]
COMMANDS = ["dit.model", "dit.checkpoint", "dit.training.posthoc_ema", "dit.report"]


def run(*command, **environment):
    """What a command wrote to stdout and stderr, and the top packages that it imported."""
    settings = {**os.environ, "HYDRA_FULL_ERROR": "0", **environment}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True, env=settings
    )
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return done.stdout, [line for line in lines if not line.startswith("import time:")], imported


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train.py", "experiment=digits", "modle.depth=3"], "Key 'modle' is not in struct"),
        (["train.py", "experiment=digits", "seed=x"], "error: seed must be a whole number of at least 0, got 'x'"),
        (["train.py", "diffusion=spiral"], "Could not find 'diffusion/spiral'"),
        (["sample.py", "checkpoint=x", "steps=0"], "error: steps must be a whole number from 1 to 1,000,000, got 0"),
        (["evaluate.py", "chekpoint=x"], "Key 'chekpoint' is not in struct"),
        (
            ["-m", "data.latents", "data=digits", "shown=0"],
            "error: shown must be a whole number from 1 to 10,000, got 0",
        ),
        (["-m", "data.inspect"], "You must specify 'data'"),
        (["-m", "dit.checkpoint", "import", "dti", "a", "b"], "invalid choice: 'dti'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_typo_is_refused_without_pytorch(command, said, tmp_path):
    command = [*command, f"hydra.run.dir={tmp_path}"] if command[0] == "train.py" else command
    _, lines, imported = run(*command)
    assert any(said in line for line in lines), lines
    assert not imported & HEAVY
    if "dit.checkpoint" not in command:
        assert lines[0] == "reading the configuration"


@pytest.mark.parametrize(
    "command", [*([script] for script in SCRIPTS), ["-m", "data.latents"], *(["-m", name] for name in COMMANDS)]
)
def test_help_is_shown_without_pytorch(command):
    shown, lines, imported = run(*command, "--help")
    assert "Powered by Hydra" in shown or "usage: python -m" in shown, lines
    assert not imported & HEAVY


def test_completion_is_without_pytorch_and_without_a_word():
    shown, lines, imported = run("train.py", "-sc", "query=bash", COMP_LINE="train.py diffu", COMP_POINT="14")
    assert "diffusion=" in shown
    assert lines == []
    assert not imported & HEAVY


def test_a_command_says_so_before_it_loads_pytorch(tmp_path):
    _, lines, imported = run("-m", "dit.checkpoint", "inspect", str(tmp_path / "none.ckpt"))
    assert lines[0] == "loading PyTorch, a few seconds"
    assert "does not exist" in lines[1]
    assert "torch" in imported


def test_every_family_is_a_source():
    assert (*FAMILIES, "diffusers") == SOURCES
