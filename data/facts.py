"""What a configuration asks of files before anything is built: `${count_classes:DIR}`, `${latents:DIR,channels}`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data.folder import folder_classes
from data.latents.manifest import Manifest


def _of_latents(root: str, key: str) -> int:
    plan = Manifest.read(root).plan
    return {"image_size": plan.latent_size, "channels": plan.channels, "num_classes": len(plan.class_names)}[key]


RESOLVERS: dict[str, Callable[..., Any]] = {
    "count_classes": lambda root: len(folder_classes(root)),
    "latents": _of_latents,
}
