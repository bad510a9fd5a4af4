"""A part of the campaign, in every run of the tests: see `python -m tests.hostile`."""

import pytest

from tests.hostile.__main__ import WRITTEN
from tests.hostile.campaign import damage, strange
from tests.hostile.kinds import KINDS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_found(name, tmp_path):
    tally, wrong = damage(name, tmp_path, count=6, seed=1)
    assert not wrong, wrong
    assert tally["refused"] >= 4 or not KINDS[name].checked


@pytest.mark.parametrize("name", WRITTEN)
def test_values_of_strangers_do_nothing(name, tmp_path):
    tally, wrong = strange(name, tmp_path, count=6, seed=1)
    assert not wrong, wrong
    assert sum(tally.values()) == 6
