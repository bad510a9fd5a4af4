"""MODULES OF THE USER'S OWN, imported because the user said so: networks in them register themselves."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from dit.checks import shown


def import_modules(names: Any) -> None:
    """Imports modules by name, of installed packages or of the current folder. ValueError for what is no list of names,
    and for a module that is not there or lacks one it imports."""
    if names is None:
        return
    if not isinstance(names, list | tuple) or not all(
        isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) for name in names
    ):
        raise ValueError(f"imports must be a list of module names as [my_nets], got {shown(names)}")
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"imports={name} cannot be imported from here or from installed packages: {error}"
            ) from error
