"""The signature is the schema: what a key may be is what its argument is annotated as, said with the full key."""

import copy
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Interval, MinLen
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dit.checks import Count, Share, fits, named
from dit.launch.configuration import choices
from dit.launch.options import Evaluate, Inspect, Sample, Train
from dit.launch.schema import Part, check_parts, check_plain
from dit.resolvers import register_resolvers

CONFIGS = Path(__file__).parents[2] / "configs"


@functools.cache
def composed(name, *groups):
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, [*groups, "paths.run_dir=x"])


def check(name, options, *overrides):
    """Groups are composed, once for all tests; values are put in, as Hydra would."""
    overrides = choices(overrides, CONFIGS, name)
    groups = [each for each in overrides if any((CONFIGS / place / each.lstrip("~").split("=")[0]).is_dir()
                                                for place in ("", "training"))]  # fmt: skip
    config = copy.deepcopy(composed(name, *groups))
    for parsed in OverridesParser.create().parse_overrides([each for each in overrides if each not in groups]):
        OmegaConf.set_struct(config, not parsed.is_add())
        OmegaConf.update(config, parsed.key_or_group, parsed.value())
    check_plain(config, options)
    check_parts(config, options)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=-1", "seed must be a whole number of at least 0, got -1"),
        ("seed=9223372036854775808", "seed must be a whole number of at least 0, got 9223372036854775808"),
        ("steps=1000000000000", "steps must be a whole number from 1 to 1,000,000, got 1000000000000"),
        ("resume=false", "resume must be a string or null, got False"),
        ("dropout.class=x", "dropout.class must be a finite number from 0 to 1, got 'x'"),
        ("matmul_precision=low", "matmul_precision must be highest or high or medium, got 'low'"),
        ("imports=my_nets", "imports must be a list, each a string or null, got 'my_nets'"),
        ("optimizer.lr=1e-3x", "optimizer.lr must be a finite number or a Tensor, got '1e-3x'"),
        ("optimizer.lr=nan", "optimizer.lr must be a finite number or a Tensor, got nan"),
        ("optimizer.betas=[0.9]", "optimizer.betas must be a list of 2: a finite number or a Tensor, a finite number"),
        ("optimizer.fused=maybe", "optimizer.fused must be true or false or null, got 'maybe'"),
        ("+optimizer.momentum=1", "optimizer.momentum is nothing that torch.optim.AdamW takes; it takes params, lr, b"),
        ("optimizer._target_=torch.optim.Adan", "optimizer._target_='torch.optim.Adan' cannot be imported: "),
        ("optimizer=null", "optimizer must be one of adamw, got null"),
        ("optimizer._partial_=x", "optimizer._partial_ must be true or false, got 'x'"),
        ("model.depth=2.5", "model.depth must be a whole number, got 2.5"),
        ("model.norm=3", "model.norm must be a string, got 3"),
        ("loss=cosine loss.inner=null", "loss.inner must be a Loss, got None"),
        ("loss=cosine loss.inner._target_=dit.solvers.Heun", "loss.inner must be a Loss, got dit.solvers.Heun"),
        ("diffusion.path=x", "diffusion.path must be a GaussianPath, got 'x'"),
        ("diffusion.kind=noise", "diffusion.kind must be x0 or eps or v or velocity or score or edm, got 'noise'"),
        ("solver=[1]", "solver must be one of churn, ddim, "),
        ("callbacks.preview='../../x'", "callbacks.preview must be a Callback or null, got '../../x'"),
        ("callbacks.preview.classes=true", "callbacks.preview.classes must be a whole number, got True"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be a whole number from 1 to 1,000"),
        ("trainer.accumulate_grad_batches=[a]", "trainer.accumulate_grad_batches must be a whole number from 1 to 1,0"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must be a finite number of at least 0 or null"),
        ("trainer.val_check_interval=false", "trainer.val_check_interval must be a whole number or a finite number"),
        ("+trainer.epochs=3", "trainer.epochs is nothing that dit.training.make_trainer takes; it takes "),
        ("guidance=interval guidance.log_snr=[1]", "guidance.log_snr must be a list of 2: a finite number, a finite n"),
        ("guidance=compose guidance.scales=[x]", "guidance.scales must be a list, each a finite number, got ['x']"),
        ("guidance.scale={a:1}", "guidance.scale must be a finite number or a function, got {'a': 1}"),
        ("validation.levels=0", "validation.levels must be a list of at least 1, each a finite number, got 0"),
        ("adapter=head_only adapter.train=x", "adapter.train must be a list, each a string, got 'x'"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_told_by_its_full_key(override, sentence):
    with pytest.raises(Exception, match=r".*") as refusal:
        check("train", Train, *override.split())
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "options", "override", "sentence"),
    [
        ("sample", Sample, "checkpoint=[a,b]", "checkpoint must be a string, got ['a', 'b']"),
        ("sample", Sample, "classes=3.0", "classes must be a list, each a whole number or a string or a whole number"),
        ("sample", Sample, "device=null", "device must be a string, got None"),
        ("sample", Sample, "format=gif", "format must be png or npz, got 'gif'"),
        ("evaluate", Evaluate, "replicates=1e20", "replicates must be a whole number from 2 to 1,000,000, got 1e+20"),
        ("evaluate", Evaluate, "guidance_scales=2", "guidance_scales must be a list, each a finite number or null"),
        ("evaluate", Evaluate, "vae={}", "vae must be a string or null, got {}"),
        ("evaluate", Evaluate, "features=x", "Could not find 'features/x'"),
        ("inspect", Inspect, "limit=0", "limit must be a whole number from 1 to 1,000,000,000 or null, got 0"),
    ],
)
def test_so_do_the_other_commands(name, options, override, sentence):
    with pytest.raises(Exception, match=r".*") as refusal:
        check(name, options, *{"sample": ["checkpoint=x"], "inspect": ["data=digits"]}.get(name, []), override)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=1", "optimizer.betas=[0.9,1]", "callbacks.preview=null", "callbacks.checkpoint=null",
        "logger=null", "logger.csv=null", "metrics=null", "experiment=null", "adapter=null", "augment=null",
        "guidance=cfg_linear",
        "guidance=compose", "loss=learned_uncertainty",
        "trainer=fsdp", "trainer.devices=[0,1]", "+trainer.limit_val_batches=0.5", "metrics=online", "ema=power",
        "logger=tensorboard", "logger=wandb", "on_nonfinite=rollback", "augment=karras", "seed=1764331536123456789",
    ],
)  # fmt: skip
def test_what_fits_is_taken(override):
    check("train", Train, *override.split())


def test_a_null_is_the_file_none_or_leaves_a_group_out():
    given = ["logger=null", "metrics=null", "seed=null", "model.norm=null", "data=digits,synthetic", "~guidance", "a=["]
    assert choices(given, CONFIGS, "train") == ["logger=none", "~metrics", *given[2:]]
    for wrong, said in {
        "null": "null",
        "[a,b]": r"\['a', 'b'\]",
        "[[1]]": r"\[\[1\]\]",
        "-0.5": "-0.5",
        "{}": "{}",
    }.items():
        with pytest.raises(ValueError, match=rf"grid must be one of karras, .*, uniform_log_snr, got {said}"):
            choices([f"grid={wrong}"], CONFIGS, "train")
    assert choices(["metrics=[kid,recall]"], CONFIGS, "evaluate") == ["metrics=[kid,recall]"]  # no group there
    assert choices(["experiment=[digits,cifar10]"], CONFIGS, "train") == ["experiment=[digits,cifar10]"]


class Tool:
    def __init__(self, size: Annotated[int, Ge(2)], inner: "Tool | None" = None, **more: Any):
        self.size = size


class Sharp(Tool):
    def __init__(self, edges: Annotated[list[float], MinLen(1)], **tool: Any):
        super().__init__(**tool)


@dataclass
class Options:
    tools: Annotated[Any, Part("tests.launch.test_schema.Tool")]


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"_target_": "Sharp", "edges": [1], "size": 2, "inner": {"_target_": "Tool", "size": 3}}, None),
        (
            {"_target_": "Sharp", "edges": [], "size": 2},
            "tools.edges must be a list of at least 1, each a finite number",
        ),
        ({"_target_": "Sharp", "edges": [1], "size": 1}, "tools.size must be a whole number of at least 2, got 1"),
        ({"_target_": "Sharp", "size": 2}, "tools.edges must be given"),
        ({"_target_": "Tool", "size": 2, "inner": {"_target_": "Tool"}}, "tools.inner.size must be given"),
        ({"_target_": "Tool", "size": 2, "inner": 3}, "tools.inner must be a Tool or null, got 3"),
        ({"_target_": "Tool", "size": 2, "handle": 3}, None),
        ({"_target_": "Options", "tools": 1}, "tools must be a Tool, got tests.launch.test_schema.Options"),
        ({"_target_": "CONFIGS"}, "tools._target_=tests.launch.test_schema.CONFIGS is nothing that can be called"),
        (None, "tools must be a Tool, got None"),
    ],
)
def test_arguments_of_parts_within_parts(node, sentence):
    def placed(node):
        if not isinstance(node, dict):
            return node
        return {k: f"tests.launch.test_schema.{v}" if k == "_target_" else placed(v) for k, v in node.items()}

    config = OmegaConf.create({"tools": placed(node)})
    if sentence is None:
        check_parts(config, Options)
    else:
        with pytest.raises(ValueError, match=r".*") as refusal:
            check_parts(config, Options)
        assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("hint", "fitting", "other", "words"),
    [
        (Count, [1, 10**9], [0, 10**9 + 1, True, 1.0, "1", None], "a whole number from 1 to 1,000,000,000"),
        (Share, [0, 1, 0.5], [-0.1, 1.1, False, float("nan")], "a finite number from 0 to 1"),
        (Annotated[float, Gt(0)], [1e-9], [0, -1], "a finite number of more than 0"),
        (Annotated[int, Interval(gt=0, lt=3)], [1, 2], [0, 3], "a whole number of more than 0 and less than 3"),
        (tuple[float, int], [[1, 2]], [[1], [1, 2.5], 3], "a list of 2: a finite number, a whole number"),
        (dict[str, Share], [{}, {"a": 1}], [{"a": 2}, {1: 1}], "a mapping"),
        (Count | None, [None, 3], [0], "a whole number from 1 to 1,000,000,000 or null"),
    ],
    ids=lambda value: "",
)
def test_bounds_are_part_of_a_type(hint, fitting, other, words):
    assert all(fits(value, hint) for value in fitting)
    assert not any(fits(value, hint) for value in other)
    assert named(hint) == words
