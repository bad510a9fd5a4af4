"""Tests here run with the stand-in device known to torch."""

import pytest

from tests.stand_in.device import OnStandIn, register


@pytest.fixture(autouse=True)
def stand_in():
    register()
    with OnStandIn():
        yield
