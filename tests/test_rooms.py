"""The house: who may import whom, room signs, no literal class count, and a library that needs torch alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("dit", "data", "hydra_plugins")
SOURCES = [f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py")] + sorted(ROOT.glob("*.py"))

ROOMS = (
    "model",
    "diffusion",
    "solvers",
    "training",
    "metrics",
    "evaluate",
    "report",
    "checkpoint",
    "launch",
    "output",
)
FRAMEWORK = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb"}
FORBIDDEN = {
    "dit": {"torch"},
    "dit.model": FRAMEWORK | {"dit.diffusion", "dit.solvers", "dit.training", "torchvision", "data"},
    "dit.diffusion": FRAMEWORK | {"dit.model", "dit.solvers", "dit.training", "torchvision", "einops", "data"},
    "dit.solvers": FRAMEWORK | {"dit.model", "dit.training", "torchvision", "einops", "data"},
    "dit.codec": FRAMEWORK | {"torchvision", "einops", "data", *(f"dit.{room}" for room in ROOMS)},
    "dit.metrics": FRAMEWORK | {"dit.model", "dit.training", "data"},
    "dit.report": FRAMEWORK | {"dit.model", "dit.training", "data"},
    "dit.checkpoint": FRAMEWORK | {"dit.solvers", "dit.training", "torchvision", "diffusers", "rich", "data"},
    "dit.training": {"hydra", "omegaconf", "data", "dit.launch"},
    "dit.launch": {"lightning", "wandb", "torchvision", "data", "dit.training", "dit.model"},
    "data": {"hydra", "omegaconf", *(f"dit.{room}" for room in ROOMS)},
}


LAZY = {"dit.solvers": {"torchdiffeq"}}  # named in the room, loaded on use


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_loads_only_what_it_may(room):
    code = f"import sys; from {room} import *; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not (FORBIDDEN[room] | LAZY.get(room, set())) & set(run.stdout.split())


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("room", [room for room in FORBIDDEN if room != "dit"])
def test_no_line_of_a_room_names_what_it_must_not(room):
    folder = ROOT / room.replace(".", "/")
    files = folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]
    if room in ("data", "dit.report"):  # whose commands are scripts: nothing imports them
        files = [file for file in files if file.name != "__main__.py"]
    for file in files:
        for name in imports(file):
            for forbidden in FORBIDDEN[room] | ({"wandb"} if room == "dit.training" else set()):
                assert not f"{name}.".startswith(f"{forbidden}."), f"{file.name} imports {name}"


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_every_file_has_a_room_sign(file):
    if file == ROOT / "dit" / "__init__.py":
        assert file.read_text() == ""  # importing dit costs nothing
        return
    assert ast.get_docstring(ast.parse(file.read_text())), f"{file} has no docstring"


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_class_count_is_written_down(file):
    """1000 as a default may only be the number of diffusion steps or the scale of time."""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if re.search(r"\b1_?000\b(?!_)", line):
            assert "steps" in line or "time_scale" in line, f"{file.name}:{number}: {line.strip()}"


@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py"])
def test_scripts_stay_short(script):
    lines = (ROOT / script).read_text().splitlines()
    assert len(lines) < 60


def test_configuration_is_not_read_by_get():
    for file in SOURCES:
        assert not re.search(r"\b(cfg|config|options)\.get\(", file.read_text()), file
