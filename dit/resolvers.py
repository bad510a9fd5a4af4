"""WHAT A CONFIGURATION MAY COMPUTE: `${product:a,b}`, `${count_classes:DIR}`, `${latents:DIR,channels}`, ..."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

# `data` loads PyTorch: it is imported where a resolver needs it.


def product(first: Any, second: Any) -> int | None:
    """None of what are no whole numbers, which the check of their own keys refuses."""
    return first * second if isinstance(first, int) and isinstance(second, int) else None


def count_classes(root: str) -> int:
    from data import folder_classes

    return len(folder_classes(root))


def latents(root: str, key: str) -> int:
    from data.latents.manifest import Manifest

    plan = Manifest.read(root).plan
    return {"image_size": plan.latent_size, "channels": plan.channels, "num_classes": len(plan.class_names)}[key]


def job_folder() -> str:
    """`hydra.sweep.dir`; in a sweep, the folder in it that Hydra makes for the job."""
    hydra_config = HydraConfig.get()
    return hydra_config.runtime.output_dir if hydra_config.mode == RunMode.MULTIRUN else hydra_config.sweep.dir


def register_resolvers() -> None:
    for resolver in (product, count_classes, latents, job_folder):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
