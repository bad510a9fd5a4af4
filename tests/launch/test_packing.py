"""A configuration crosses processes as JSON and is what it was: content, interpolations, flags, what was resolved."""

from enum import Enum

import pytest
from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import Container, OmegaConf, open_dict

from dit.launch.job import Job
from dit.launch.packing import dumps, loads, put_together, taken_apart
from tests.launch.test_launch import ROOT


def nodes(node, path=()):
    """Every node of a tree: where it is, its raw value with the value's type, its flags."""
    value = node._value()
    inner = isinstance(value, dict | list)
    yield path, type(value), None if inner else repr(value), node._metadata.flags
    if inner and isinstance(node, Container):
        for key in node._content if isinstance(value, dict) else range(len(value)):
            yield from nodes(node._get_node(key), (*path, (type(key), key)))


def check_same(config, types=None):
    again = put_together(loads(dumps(taken_apart(config, enum_to_str=types is not None))), types)
    assert sorted(map(repr, nodes(again))) == sorted(map(repr, nodes(config)))
    assert OmegaConf.get_cache(again) == OmegaConf.get_cache(config)
    return again


class Color(Enum):
    RED = 1


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text().filter(lambda text: "${" not in text),
    st.sampled_from(
        ["???", "${a}", "${a.b}${oc.env:HOME}", r"\${a}", "${now:%f}", "1e-3", "null", "yes", "inf", "=", "{}"]
    ),
)
KEYS = st.one_of(st.text(min_size=1), st.integers(), st.booleans())
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=9,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_any_plain_configuration_crosses_unchanged(content):
    check_same(OmegaConf.create(content))


def test_flags_interpolations_and_what_was_resolved_cross():
    calls = []
    OmegaConf.register_new_resolver(
        "counted", lambda name: calls.append(name) or len(calls), use_cache=True, replace=True
    )
    text = "{a: {b: 1, c: {d: [1, {e: 2}]}}, missing: '???', drawn: '${counted:x}', linked: '${a.c}', none: null}"
    config = OmegaConf.create(text)
    OmegaConf.set_struct(config, True)
    OmegaConf.set_readonly(config.a.c, True)
    OmegaConf.set_readonly(config.a.c.d[1], False)
    assert config.drawn == 1
    again = check_same(config)
    assert again.drawn == 1
    assert calls == ["x"]
    assert again.linked.d[1].e == 2
    assert OmegaConf.is_missing(again, "missing")
    assert OmegaConf.is_struct(again)
    assert OmegaConf.is_readonly(again.a.c.d)
    assert not OmegaConf.is_readonly(again.a.c.d[1])


@pytest.mark.parametrize("script", ["train", "sample", "evaluate", "latents"])
def test_what_hydra_composes_crosses_unchanged(script):
    overrides = ["hydra.mode=MULTIRUN", "+hydra.job.env_set={A: 1}", "+more={1: [inf, {x: '${seed}'}]}"]
    OmegaConf.register_new_resolver("job_folder", lambda: "x", replace=True)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        check_same(compose(script, overrides, return_hydra_config=True), {"hydra": HydraConf})


def test_a_job_is_entered_as_hydra_would(tmp_path, monkeypatch):
    """Types of Hydra's own configuration are there again, and its interpolations lead into the script's."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    overrides = ["a=3", "hydra.mode=MULTIRUN", f"+hydra.runtime.output_dir={tmp_path}", "hydra.job.name=run-${a}"]
    with initialize_config_dir(str(ROOT / "tests" / "launch" / "configs"), version_base="1.3"):
        whole = compose("stand_in", overrides, return_hydra_config=True)
    with open_dict(whole):
        whole.hydra.sweeper = {"direction": Color.RED}  # as Optuna's has one
    HydraConfig.instance().set_config(whole)
    job = Job.of(OmegaConf.create({"a": 3, "time": "${now:%f}"}))
    packed = job.packed()
    HydraConfig.instance().cfg = None
    again = Job.unpacked(packed)
    assert again.folder == str(tmp_path)
    assert again.moment == job.moment
    HydraConfig.instance().set_config(again.composed)
    assert HydraConfig.get().mode is RunMode.MULTIRUN
    assert HydraConfig.get().job.name == "run-3"
    job.pin_time()
    time = job.config.time
    again.pin_time()
    assert again.config.time == time


@pytest.mark.parametrize("value", [Color.RED, b"bytes"])
def test_what_is_no_plain_data_is_refused(value):
    with pytest.raises(ValueError, match=r"may hold text, numbers, lists and dicts, got "):
        dumps(taken_apart(OmegaConf.create({"a": [value]})))
