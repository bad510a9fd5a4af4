"""The tests of the stand-in device, in a process that has it from its first tensor on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stand_in.conftest import OWN_PROCESS


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_stand_in(which):
    command = [sys.executable, "-m", "pytest", "tests/stand_in", "-q", "-m", which, "-p", "no:cacheprovider", "-rs"]
    environment = {**os.environ, OWN_PROCESS: "1"}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    root = Path(__file__).parents[1]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:]
    assert " passed" in run.stdout
