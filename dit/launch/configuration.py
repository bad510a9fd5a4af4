"""THE CONFIGURATION of a job: in plain containers, and with the model of a checkpoint in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from dit.checks import shown


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration in plain containers."""
    result = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(result, dict)
    return {str(key): value for key, value in result.items()}


def choices(overrides: Sequence[str], configs: Path, name: str) -> list[str]:
    """The command line's overrides as Hydra takes them: of a group, a folder of `configs`, it knows no null. That means
    its file none.yaml, or leaves out a group that configs/NAME.yaml leaves out.

    ValueError for a choice that is no name, and a null of what cannot be left out. What cannot be parsed stays: Hydra
    says so.
    """
    written = yaml.safe_load((configs / f"{name}.yaml").read_text())
    searched = [configs, *(configs.parent / place.removeprefix("pkg://").replace(".", "/")
                           for place in written.get("hydra", {}).get("searchpath", ()))]  # fmt: skip
    left_out = [
        group for each in written.get("defaults", ()) if isinstance(each, dict) for group in each if each[group] is None
    ]
    return [_chosen(each, searched, left_out) for each in overrides]


def _chosen(override: str, searched: Sequence[Path], left_out: Sequence[str]) -> str:
    """searched: where groups lie; left_out: those that are, by default."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException:
        return override
    group, value = parsed.key_or_group, parsed.value()
    places = [folder / group for folder in searched if (folder / group).is_dir()]
    if parsed.is_delete() or parsed.is_sweep_override() or not places or isinstance(value, str | QuotedString):
        return override
    known = sorted(file.stem for folder in places for file in folder.glob("*.yaml"))
    if isinstance(value, list) and all(each in known for each in value):
        return override
    if value is None and "none" in known:
        return f"{group}=none"
    if value is None and group in left_out:
        return f"~{group}"
    said = "null" if value is None else shown(value)
    raise ValueError(f"{group} must be one of {', '.join(known)}, got {said}")


def adopt(config: DictConfig, loaded: Any) -> None:
    """Makes model and diffusion of an unresolved configuration those of a checkpoint, what `dit.checkpoint.load` has
    returned, before anything else reads them; pictures, dropout and kernels stay the run's own. What is written there
    is what network and path say of themselves, never what the file said.

    ValueError for an override of what the checkpoint decides. What an experiment chose of it is replaced.
    """
    own = ("image_size", "channels", "num_classes", *loaded.network.RUN_ARGUMENTS)
    for override in HydraConfig.get().overrides.task:
        key = override.lstrip("+~").partition("=")[0]
        group, _, name = key.partition(".")
        if group in ("model", "diffusion") and name not in own:
            raise ValueError(
                f"{override} cannot be asked of a run with finetune_from: the checkpoint decides model and diffusion, "
                f"but for model.{', model.'.join(own[3:])}"
            )
    unresolved = OmegaConf.to_container(config.model)
    assert isinstance(unresolved, dict)
    kind = type(loaded.network)
    _check_plain(loaded.network.arguments)
    config.model = {
        "_target_": f"{kind.__module__}.{kind.__qualname__}",
        **loaded.network.arguments,
        **{key: unresolved[key] for key in own if key in unresolved},
    }
    config.diffusion = {
        "path": {"_target_": "dit.diffusion.path_from_spec", "spec": loaded.denoiser.path.spec},
        "kind": loaded.denoiser.kind,
        "sigma_data": loaded.denoiser.sigma_data,
    }


def _check_plain(value: Any) -> None:
    """ValueError for what a configuration would compute or call: it is a file's, and stays data."""
    if isinstance(value, str) and "${" in value:
        raise ValueError(
            f"the network of finetune_from has an argument that a configuration would compute: {shown(value)}"
        )
    if isinstance(value, Mapping) and any(str(key).startswith("_") for key in value):
        raise ValueError(
            f"the network of finetune_from has an argument that a configuration would call: {shown(value)}"
        )
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_plain(item)
