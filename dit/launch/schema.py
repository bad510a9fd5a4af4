"""THE SIGNATURE IS THE SCHEMA: every configured value is of the type of the argument it goes to, before anything is
built."""

from __future__ import annotations

import inspect
import pkgutil
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from dit.checks import check_value, fits, named, shown, signature


class Part:
    """In the annotation of a key, `Annotated[Any, Part("package.Class")]`: it holds a part, `_target_` and its
    arguments, and the part is one of these classes, which are looked up once PyTorch may be loaded. null: or nothing.
    """

    def __init__(self, *names: str, null: bool = False):
        self.names, self.null = names, null

    @property
    def hint(self) -> Any:
        kinds = tuple(pkgutil.resolve_name(":".join(name.rsplit(".", 1))) for name in self.names)
        return Union[(*kinds, type(None)) if self.null else kinds]  # noqa: UP007 of a tuple


class Node:
    """A dataclass of keys, in the annotation of a key that holds several and no part."""


def check_plain(config: DictConfig, options: type) -> None:
    """Raises ValueError, with the key, for a value of `config` that is not what the field of that name in the dataclass
    `options` is annotated as. Parts are left alone, and PyTorch is not loaded."""
    for key, hint in get_type_hints(options, include_extras=True).items():
        if not _parts_of(hint):
            _check(key, _value(config, key), hint)


def check_parts(config: DictConfig, options: type) -> None:
    """Raises ValueError, with the full key, for an argument of a part that is none, is missing or of another type than
    its annotation, and for a part that is of another kind than its key is for."""
    for key, hint in get_type_hints(options, include_extras=True).items():
        if _parts_of(hint):
            _check(key, _value(config, key), hint)


def _value(config: DictConfig, key: str) -> Any:
    """Resolved, in plain containers; None for an optional group that was not chosen."""
    try:
        value = config[key] if key in config else None  # noqa: SIM401 configurations are not asked by get
        if OmegaConf.is_config(value):
            return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    except InterpolationKeyError as error:
        raise ValueError(f"{key} cannot be computed: {' '.join(str(error).split())}") from None
    return value


def _parts_of(hint: Any) -> bool:
    node = inspect.isclass(hint) and issubclass(hint, Node)
    inside = get_type_hints(hint, include_extras=True).values() if node else get_args(hint)
    return isinstance(hint, Part) or any(_parts_of(inner) for inner in inside)


def _check(key: str, value: Any, hint: Any) -> None:
    hint = _resolved(hint)
    if isinstance(value, Mapping) and "_target_" in value:
        _check_part(key, value, hint)
        return
    options = _options(hint)
    if value == {} and type(None) in options and not all(map(_is_plain, options)):
        return  # configs/features/classifier.yaml is empty
    if any(fits(value, option) for option in options if _is_plain(option)):
        return
    for option in options:
        origin, inner = get_origin(option), get_args(option)
        if origin in (dict, Mapping) and isinstance(value, Mapping):
            for name, item in value.items():
                _check(f"{key}.{name}", item, inner[1])
            return
        if origin in (list, tuple, Sequence) and isinstance(value, list) and not _is_plain(option):
            several = origin is not tuple or inner[-1] is Ellipsis
            if several or len(inner) == len(value):
                for number, item in enumerate(value):
                    _check(f"{key}.{number}", item, inner[0] if several else inner[number])
                return
        if inspect.isclass(option) and issubclass(option, Node) and isinstance(value, Mapping):
            for name, inside in get_type_hints(option, include_extras=True).items():
                if name in value:
                    _check(f"{key}.{name}", value[name], inside)
            return
        if not inspect.isclass(option) and not origin:
            return  # an annotation that says nothing about a value
    raise ValueError(f"{key} must be {named(hint)}, got {shown(value)}")


def _check_part(key: str, node: Mapping[str, Any], hint: Any) -> None:
    target = node["_target_"]
    try:
        call = get_object(target)
    except Exception as error:  # whatever a module does when it is imported
        raise ValueError(f"{key}._target_={shown(target)} cannot be imported: {error}") from error
    if not callable(call):
        raise ValueError(f"{key}._target_={target} is nothing that can be called")
    try:
        parameters, hints, more = signature(call)
    except (TypeError, ValueError):
        return  # of C
    partial = node.get("_partial_", False)
    check_value(f"{key}._partial_", partial, bool)
    made = call if inspect.isclass(call) else hints.get("return")
    _check_kind(key, target, made, hint, partial)
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    for name, value in given.items():
        if name in parameters:
            _check(f"{key}.{name}", value, hints.get(name, Any))
        elif not more:
            taken = f"it takes {', '.join(parameters)}" if parameters else "it takes nothing"
            raise ValueError(f"{key}.{name} is nothing that {target} takes; {taken}")
    # What a class above asks for, a class may give it.
    own = {name: p for name, p in inspect.signature(call).parameters.items() if name in parameters}
    missing = [name for name, p in own.items() if p.default is p.empty and name not in given]
    if missing and not partial and "_args_" not in node:
        raise ValueError(f"{key}.{missing[0]} must be given")


def _check_kind(key: str, target: str, made: Any, hint: Any, partial: bool) -> None:
    """ValueError unless what the target makes is of a class that is asked for, where both say a class."""
    kinds = [option for option in _options(hint) if option not in (bool, int, float, str, type(None))]
    if partial or not kinds or not inspect.isclass(made) or not all(map(_is_class, kinds)):
        return
    if not issubclass(made, tuple(kinds)):
        raise ValueError(f"{key} must be {named(hint)}, got {target}")


def _is_class(hint: Any) -> bool:
    return inspect.isclass(hint) and not getattr(hint, "_is_protocol", False)


def _options(hint: Any) -> tuple[Any, ...]:
    hint = _resolved(hint)
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _resolved(hint: Any) -> Any:
    """A `Part` as the classes that it names."""
    if get_origin(hint) is Annotated and isinstance(get_args(hint)[1], Part):
        return get_args(hint)[1].hint
    return hint


def _is_plain(hint: Any) -> bool:
    """Whether everything of this type is a plain value, numbers, words and containers of them."""
    if get_origin(hint) is Literal:
        return True
    if get_origin(hint) is Annotated:
        return not _parts_of(hint) and _is_plain(get_args(hint)[0])
    if inner := get_args(hint):
        containers = (Union, types.UnionType, list, tuple, Sequence, dict, Mapping)
        return get_origin(hint) in containers and all(_is_plain(each) for each in inner if each is not Ellipsis)
    return hint in (bool, int, float, str, type(None), Any)
