"""What a configuration asks of files before anything is built: `${count_classes:FOLDER}`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data.folder import folder_classes

RESOLVERS: dict[str, Callable[..., Any]] = {"count_classes": lambda root: len(folder_classes(root))}
