"""WHAT A RECIPE SAYS OF A PART goes away with the part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

RECIPES = "experiment", "debug"
THE_RUNS = ("data",)  # size of pictures and batch


def settled(config: DictConfig) -> DictConfig:
    """The unresolved configuration of the job that Hydra is running, in which what a recipe sets for a part is gone
    where the command line chose another part: `experiment=digits guidance=tnr` is TNR as configs/guidance has it,
    though the recipe has a `guidance.scale`. A recipe's `data` stay.

    ValueError for a value that was typed for a part which has none of that name.
    """
    with open_dict(config):
        for key, node in _chosen_anew(config).items():
            config[key] = node
    return config


def _chosen_anew(config: DictConfig) -> dict[str, DictConfig]:
    """The parts of another class than the recipe has, and those whose own parts it wrote a value over, without it."""
    hydra = HydraConfig.get()
    choices, overrides = hydra.runtime.choices, {str(o): _key(o) for o in hydra.overrides.task}
    recipes = [f"{group}={_written(choices[group])}" for group in RECIPES if choices.get(group)]
    typed = [o for o, key in overrides.items() if key in choices and key not in RECIPES]
    if not recipes or not typed:
        return {}
    name = hydra.job.config_name
    alone, bare, now = (_written_out(c) for c in (compose(name, recipes), compose(name, typed), config))
    changed = [
        key
        for key in bare
        if key not in THE_RUNS
        and _target(now[key]) == _target(bare[key])
        and (_target(now[key]) != _target(alone.get(key)) or (key in choices and _buries(now[key], bare[key])))
    ]
    if not changed:
        return {}
    values = [o for o, key in overrides.items() if key not in choices and key.partition(".")[0] in changed]
    try:
        anew = compose(name, typed + values)
    except HydraException as error:
        raise ValueError(" ".join(str(error).split())) from error
    return {key: anew[key] for key in changed}


def _buries(node: Any, bare: Any) -> bool:
    """Whether a plain value stands where a part was."""
    return isinstance(bare, dict) and any(_target(part) and not _target(node[key]) for key, part in bare.items())


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _target(node: Any) -> str | None:
    return node.get("_target_") if isinstance(node, dict) else None


def _written_out(config: DictConfig) -> dict[str, Any]:
    result = OmegaConf.to_container(config)
    assert isinstance(result, dict)
    return {str(key): node for key, node in result.items()}


def _written(choice: str | Iterable[str]) -> str:
    return choice if isinstance(choice, str) else f"[{','.join(choice)}]"
