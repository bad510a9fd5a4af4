"""Checks behind the one-sentence errors: numbers, and what files say of objects, against a constructor's signature."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, is_dataclass
from typing import Annotated, Any, Literal, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen

T = TypeVar("T")

# What many arguments are; a bound keeps a slip of the finger from taking the machine.
Count = Annotated[int, Interval(ge=1, le=1_000_000_000)]
Seed = Annotated[int, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]

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
    whole = Annotated[int, Interval(ge=least, le=most)]
    check_value(key, value, Optional[whole] if or_null else whole)  # noqa: UP045 of a variable


def check_number(key: str, value: Any, least: float | None = None, most: float | None = None) -> None:
    """Raises ValueError unless `value` is a finite number from `least` to `most`."""
    check_value(key, value, Annotated[float, Interval(ge=least, le=most)])


def check_value(key: str, value: Any, hint: Any) -> None:
    """Raises ValueError unless `value` is a plain value of the annotated type and within its bounds."""
    if not fits(value, hint):
        raise ValueError(f"{key} must be {named(hint)}, got {shown(value)}")


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
    parameters, hints, _ = signature(call)
    for key, value in arguments.items():
        if key not in parameters:
            raise ValueError(f"{what} does not take {shown(key)}; it takes {', '.join(parameters)}")
        check_value(f"{key} of {what}", value, hints.get(key, Any))
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}")


def signature(call: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """The named parameters of a function, or of the constructor of a class, their types, and whether it takes others
    too. **keywords of a constructor are those of the next class above, of a function those of the class it returns."""
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    more = False
    made = call if inspect.isclass(call) else _hints(call, None).get("return")
    functions: list[tuple[Any, type | None]] = [] if inspect.isclass(call) else [(call, None)]
    functions += [(each.__init__, each) for each in inspect.getmro(made)[:-1]] if inspect.isclass(made) else []
    for function, of in functions:
        found = {key: p for key, p in inspect.signature(function).parameters.items() if key != "self"}
        parameters = {
            key: p for key, p in found.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        } | parameters
        hints = _hints(function, of) | hints
        more = any(p.kind is p.VAR_KEYWORD for p in found.values())
        if not more:
            break
    return parameters, hints, more


def _hints(function: Callable[..., Any], of: type | None) -> dict[str, Any]:
    try:
        # A dataclass's constructor is of the module of the class, where its parents' annotations mean nothing.
        hints = get_type_hints(of if of is not None and is_dataclass(of) else function, include_extras=True)
    except NameError:  # of what only a type checker imports
        return {}
    return {name: hint.type if isinstance(hint, InitVar) else hint for name, hint in hints.items()}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of an annotated type and within its bounds; False for annotations of what is no plain
    value."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, inner[0]) and all(_within(value, bound) for bound in inner[1:])
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if origin is tuple and inner[-1] is not Ellipsis:
        return isinstance(value, list | tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(item, inner[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            isinstance(key, str) and fits(item, inner[1]) for key, item in value.items()
        )
    if hint in (Any, object):
        return value is None or any(fits(value, each) for each in (bool, int, float, str, list[Any], dict[str, Any]))
    if hint is float:
        return _is_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _BEYOND
    return hint in (bool, str, type(None)) and isinstance(value, hint)


def _within(value: Any, bound: Any) -> bool:
    if isinstance(bound, MinLen):
        return len(value) >= bound.min_length
    low, high = _ends(bound)
    return all(value >= each.ge if isinstance(each, Ge) else value > each.gt for each in low) and all(
        value <= each.le if isinstance(each, Le) else value < each.lt for each in high
    )


def _ends(bound: Any) -> tuple[list[Any], list[Any]]:
    """The lower and the upper end of a bound, each in a list that is empty where it has none."""
    parts = list(bound) if isinstance(bound, Interval) else [bound]
    return [each for each in parts if isinstance(each, Ge | Gt)], [each for each in parts if isinstance(each, Le | Lt)]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _BEYOND if isinstance(value, int) else math.isfinite(value)


def named(hint: Any) -> str:
    """What a value of an annotated type is, in words, with its bounds."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        least = [bound.min_length for bound in inner[1:] if isinstance(bound, MinLen)]
        what = named(inner[0]).replace("a list", f"a list of at least {least[0]}", 1) if least else named(inner[0])
        return what + "".join(_said(bound) for bound in inner[1:] if not isinstance(bound, MinLen))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(named, inner)))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a list of {len(inner)}: {', '.join(map(named, inner))}"
    if origin in (list, tuple, Sequence):
        return f"a list, each {named(inner[0])}"
    names = {
        float: "a finite number",
        int: "a whole number",
        bool: "true or false",
        str: "a string",
        type(None): "null",
        Any: "a plain value",
    }
    if hint in names:
        return names[hint]
    if origin is Callable:
        return "a function"
    if not inspect.isclass(hint) or origin is not None:
        return "a mapping"
    return f"{'an' if hint.__name__[0] in 'AEIO' else 'a'} {hint.__name__}"


def _said(bound: Any) -> str:
    """A bound in words, after the name of what it bounds."""
    low, high = _ends(bound)
    if low and high and isinstance(low[0], Ge) and isinstance(high[0], Le):
        return f" from {low[0].ge:,} to {high[0].le:,}"
    parts = [f"at least {each.ge:,}" if isinstance(each, Ge) else f"more than {each.gt:,}" for each in low]
    parts += [f"at most {each.le:,}" if isinstance(each, Le) else f"less than {each.lt:,}" for each in high]
    return f" of {' and '.join(parts)}" if parts else ""
