"""What a recipe sets for a part goes away with the part; a scale reaches the rule that has one."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict

from dit.launch import settled
from dit.resolvers import register_resolvers

CONFIGS = Path(__file__).parents[2] / "configs"
SCALED = ["apg", "cfg", "cfg_zero_star", "dynamic_threshold", "interval", "rescale", "tnr", "velocity_limit"]


def job(*overrides, name="train"):
    """As a task function gets it, and after `settled`."""
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(name, [*overrides, "hydra.runtime.output_dir=unused"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        mine = config.copy()
        with open_dict(mine):
            del mine["hydra"]
        return config, settled(mine)


def innermost(rule):
    return innermost(rule.inner) if hasattr(rule, "inner") else rule


@pytest.mark.parametrize("rule", ["cfg", "tnr", "cfg_linear", "compose"])
def test_a_recipes_scale_goes_away_with_its_rule(rule):
    _, bare = job(f"guidance={rule}")
    _, mine = job("experiment=digits", f"guidance={rule}")
    if rule == "cfg":
        assert mine.guidance.scale == 1.5  # the recipe's own
    else:
        assert mine.guidance == bare.guidance
    instantiate(mine.guidance)
    assert (mine.optimizer.lr, mine.trainer.max_steps) == (2e-3, 2300)  # what it sets for the others stays


@pytest.mark.parametrize("rule", SCALED)
def test_a_typed_scale_reaches_the_rule_that_has_one(rule):
    recipe = ["experiment=digits"] if rule == "velocity_limit" else []
    _, mine = job(*recipe, f"guidance={rule}", "guidance.scale=3.5", name="train")
    assert innermost(instantiate(mine.guidance)).scale == 3.5


def test_the_long_way_to_a_scale_still_leads_there():
    _, mine = job("guidance=rescale", "guidance.inner.scale=3.5", "out='mine/${guidance.scale}'", name="sample")
    assert (instantiate(mine.guidance).inner.scale, mine.out) == (3.5, "mine/3.5")


def test_without_a_recipe_and_another_rule_nothing_is_changed():
    for overrides in (["experiment=cifar10"], ["lr_schedule=constant"], ["experiment=digits", "seed=3"]):
        config, mine = job(*overrides)
        assert OmegaConf.to_container(mine) == {k: v for k, v in OmegaConf.to_container(config).items() if k != "hydra"}


def test_averages_of_another_kind_lose_a_recipes_decays():
    _, mine = job("experiment=cifar10_schedules", "ema=power")
    assert "decays" not in mine.ema
    assert mine.ema.lengths == [0.05, 0.1]
    assert mine.callbacks.snapshots.every_n_steps == 1000
    _, mine = job("experiment=cifar10_schedules", "ema=power", "ema.lengths=[0.2]")
    assert mine.ema.lengths == [0.2]


def test_a_recipes_pictures_keep_their_size_in_another_folder():
    _, mine = job("experiment=cifar10", "data=folder", "data.root=x", "data.num_classes=2")
    assert (mine.data.image_size, mine.data.batch_size) == (32, 256)


def test_a_scale_for_a_rule_that_has_none_is_refused_with_its_name():
    with pytest.raises(ValueError, match=r"guidance\.scale"):
        job("experiment=digits", "guidance=cfg_plus_plus", "guidance.scale=2")
