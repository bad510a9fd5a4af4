"""Tests here run with the stand-in device known to torch, in a process of their own: tests/test_stand_in.py starts it.

Torch counts devices when a process takes its first gradient, and whoever asks for an accelerator would find this one.
"""

import os

import pytest

from tests.stand_in.device import OnStandIn, register

OWN_PROCESS = "DIT_STAND_IN"
collect_ignore_glob = [] if os.environ.get(OWN_PROCESS) else ["test_*.py"]


@pytest.fixture(autouse=True)
def stand_in():
    register()
    with OnStandIn():
        yield
