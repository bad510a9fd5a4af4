"""The house: room signs, no literal class count, and what a library that needs torch alone loads.

Who may import whom is said by the contracts in pyproject.toml, which `make lint` checks.
"""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("dit", "data", "hydra_plugins")
SOURCES = [f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py")] + sorted(ROOT.glob("*.py"))
FRAMEWORK = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb", "torchvision", "data"}


def loaded(code):
    run = subprocess.run([sys.executable, "-c", f"import sys; {code}; print(' '.join(sys.modules))"],
                         capture_output=True, text=True, check=True, cwd=ROOT)  # fmt: skip
    return set(run.stdout.split())


def test_importing_dit_costs_nothing():
    assert (ROOT / "dit" / "__init__.py").read_text() == ""
    assert "torch" not in loaded("import dit, dit.model, dit.checkpoint, dit.training, data")


def test_the_library_loads_no_framework():
    """With all that it has; what is optional is loaded on use."""
    rooms = "model", "diffusion", "objectives", "solvers", "codec", "checkpoint"
    found = loaded("; ".join(f"from dit.{room} import *" for room in rooms))
    assert not found & (FRAMEWORK | {"diffusers", "rich", "torchdiffeq", "dit.training"})
    assert "dit.solvers.sample" in found


LOADS = {
    "dit.metrics": FRAMEWORK | {"dit.model", "dit.training"},
    "dit.report": FRAMEWORK | {"dit.model", "dit.training"},
    "dit.training": {"hydra", "omegaconf", "data", "dit.launch"},
    "dit.launch": {"lightning", "wandb", "torchvision", "data", "dit.training", "dit.model"},
    "data": {"hydra", "omegaconf", "dit.model", "dit.training", "dit.solvers", "dit.metrics", "dit.launch"},
}


def test_a_room_loads_only_what_it_may():
    """Contracts read what our files import; this sees what other packages bring along: in a process for each room, all
    copies of one that has loaded PyTorch."""
    each = "from {0} import *; print('{0}', *sys.modules); sys.stdout.flush(); os._exit(0)"
    code = ["import os, sys, torch", *(f"if not (pid := os.fork()): {each.format(room)}\nos.wait()" for room in LOADS)]
    run = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True, cwd=ROOT)
    found = {room: set(modules) for room, *modules in map(str.split, run.stdout.splitlines())}
    assert found.keys() == LOADS.keys()
    assert {room: LOADS[room] & found[room] for room in LOADS} == {room: set() for room in LOADS}


def test_every_room_has_a_contract():
    """A new folder of dit/ is known to the contracts, as a source or as what others must not import."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = {
        name for contract in contracts for key in ("source_modules", "forbidden_modules") for name in contract[key]
    }
    rooms = {f"dit.{folder.name}" for folder in (ROOT / "dit").iterdir() if (folder / "__init__.py").exists()}
    assert rooms <= named


def test_every_file_has_a_room_sign():
    without = [f for f in SOURCES if f != ROOT / "dit/__init__.py" and not ast.get_docstring(ast.parse(f.read_text()))]
    assert not without


def test_no_class_count_is_written_down():
    """1000 as a default may only be the number of diffusion steps or the scale of time."""
    lines = [(f, line) for f in SOURCES for line in f.read_text().splitlines() if re.search(r"\b1_?000\b(?!_)", line)]
    assert len(lines) > 3
    assert not [(f, line) for f, line in lines if "steps" not in line and "time_scale" not in line]


@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py"])
def test_scripts_stay_short(script):
    lines = (ROOT / script).read_text().splitlines()
    assert len(lines) < 60


def test_configuration_is_not_read_by_get():
    for file in SOURCES:
        assert not re.search(r"\b(cfg|config|options)\.get\(", file.read_text()), file
