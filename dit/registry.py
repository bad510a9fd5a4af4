"""NAMES OF CLASSES, by which files and configurations speak of them: a class is known by exactly one, its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)


class Registry(dict[str, Any]):
    """Classes by name. what: such as "network"; hint: the decorator that adds one, and where it is."""

    def __init__(self, what: str, hint: str):
        super().__init__()
        self.what, self.hint = what, hint

    def register(self, name: str) -> Callable[[_Class], _Class]:
        """Raises ValueError where the name is another class's. A class that is defined again, as in a notebook,
        takes the place of its former self."""

        def decorate(kind: _Class) -> _Class:
            there = self.get(name)
            if there is not None and (there.__module__, there.__qualname__) != (kind.__module__, kind.__qualname__):
                raise ValueError(
                    f"{self.what} {name} is {there.__module__}.{there.__qualname__} already; choose another name"
                )
            self[name] = kind
            return kind

        return decorate

    def name_of(self, kind: type) -> str:
        """The name of exactly this class, and of no parent of it. ValueError if there is none."""
        for name, known in self.items():
            if known is kind:
                return name
        raise ValueError(
            f"{self.what} is a {kind.__module__}.{kind.__qualname__}, which no checkpoint could name: write "
            f"{self.hint} above the class, and start with imports=[{kind.__module__}] (docs/your_network.md)"
        )
