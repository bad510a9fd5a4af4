"""Checks behind the one-sentence errors: numbers, and what files say of objects, against a constructor's signature."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_SHOWN = 120  # characters of a value
_BEYOND = 1 << 63  # what tensors cannot hold
_JOINERS = "\u200c\u200d"  # of letters in Persian and Hindi, and of emoji


def printable(text: str) -> str:
    """`text` with escapes for what a terminal would obey rather than show: control characters, reversals of the writing
    direction, line separators, bytes that are no UTF-8."""
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any) -> str:
    """A value for an error message: printable, on one line, cut after 120 characters."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply"
    return one_line(text)


def one_line(text: str) -> str:
    """`text`, printable, on one line, cut after 120 characters."""
    return printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def harmless(text: str) -> str:
    """`text` for a cell of a table in a file: printable, with an apostrophe before what a spreadsheet takes for a
    formula. Numbers stay."""
    text = printable(text)
    if text.lstrip()[:1] not in tuple("=+-@\uff1d\uff0b\uff0d\uff20"):  # the latter as wide as Chinese characters
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def check_whole(key: str, value: Any, least: int, most: int | None = None, or_null: bool = False) -> None:
    """Raises ValueError unless `value` is a whole number from `least` to `most`, or None where that is allowed."""
    if value is None and or_null:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most:,}"
        raise ValueError(f"{key} must be a whole number {allowed}{' or null' * or_null}, got {shown(value)}")


def check_number(key: str, value: Any, least: float = -math.inf, most: float = math.inf) -> None:
    """Raises ValueError unless `value` is a finite number from `least` to `most`."""
    if not _is_number(value) or not least <= value <= most:
        bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"at most {most:g}"] * (most < math.inf)
        allowed = f" of {' and '.join(bounds)}" if bounds else ""
        raise ValueError(f"{key} must be a finite number{allowed}, got {shown(value)}")


def built(what: str, spec: Any, registry: Mapping[str, Callable[..., T]]) -> T:
    """What `spec`, {"name": ..., **arguments} out of a file, describes: the entry of that name in `registry`, called
    with the arguments.

    Raises ValueError, beginning with `what`, for a spec that is no such mapping, a name that is not in the registry,
    and arguments that the entry does not take, lacks, or takes of another type.
    """
    if not isinstance(spec, Mapping) or not all(isinstance(key, str) for key in spec):
        raise ValueError(f"{what} must be a mapping with a name, got {shown(spec)}")
    arguments = dict(spec)
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in registry:
        raise ValueError(f"{what} {shown(name)} is unknown; known are {', '.join(registry)}")
    check_arguments(f"{what} {name}", registry[name], arguments)
    return registry[name](**arguments)


def check_arguments(what: str, call: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raises ValueError, beginning with `what`, unless `arguments` are plain values that fit the signature of `call`:
    no unknown name, none missing, each of its annotated type. Numbers must be finite."""
    parameters, hints = _signature(call)
    for key, value in arguments.items():
        if key not in parameters:
            raise ValueError(f"{what} does not take {shown(key)}; it takes {', '.join(parameters)}")
        if not fits(value, hint := hints.get(key, Any)):
            raise ValueError(f"{key} of {what} must be {_named(hint)}, got {shown(value)}")
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}")


def _signature(call: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The parameters of a function, or of the constructor of a class, and their types; a constructor's **keywords are
    those of the next class above."""
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for function in [each.__init__ for each in inspect.getmro(call)] if inspect.isclass(call) else [call]:
        found = {key: p for key, p in inspect.signature(function).parameters.items() if key != "self"}
        parameters = {key: p for key, p in found.items() if p.kind is not p.VAR_KEYWORD} | parameters
        hints = get_type_hints(function) | hints
        if not any(p.kind is p.VAR_KEYWORD for p in found.values()):
            break
    return parameters, hints


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of an annotated type; False for annotations of what is no plain value."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(item, inner[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if hint is Any:
        return value is None or any(fits(value, each) for each in (bool, int, float, str, list[Any], dict[str, Any]))
    if hint is float:
        return _is_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _BEYOND
    return hint in (bool, str, type(None)) and isinstance(value, hint)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _BEYOND if isinstance(value, int) else math.isfinite(value)


def _named(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(option) for option in inner)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (list, tuple, Sequence):
        return f"a list of {_named(inner[0]).removeprefix('a ')}s"
    names = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "a string",
        type(None): "null",
        Any: "a plain value",
    }
    return names.get(hint, "a mapping")
