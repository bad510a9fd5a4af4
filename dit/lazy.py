"""PYTORCH COMES LAST: commands show `--help` and refuse a typo without it, and say so before they load it."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any


def say_loading() -> None:
    """A line on stderr, before the seconds that PyTorch takes. None if it is loaded."""
    if "torch" not in sys.modules:
        sys.stderr.write("loading PyTorch, a few seconds\n")


def on_use(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of `package` (PEP 562), which imports all names below its `if TYPE_CHECKING:` once one of them
    is asked for."""
    module = sys.modules[package]
    (block,) = (node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]

    def get(name: str) -> Any:
        if not any(alias.name == name for node in imports for alias in node.names):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        for node in imports:
            source = importlib.import_module(str(node.module))
            for alias in node.names:
                setattr(module, alias.name, getattr(source, alias.name))
        return vars(module)[name]

    return get
