"""Pictures from what a checkpoint or a cache of latents says of them: names of a registry and plain arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from data.augment import Karras
from data.cifar import Cifar
from data.digits import Digits
from data.folder import Folder
from data.pictures import Pictures
from data.synthetic import Synthetic
from dit.checks import built, check_arguments, shown

_PICTURES: dict[str, Callable[..., Pictures]] = {each.__name__: each for each in (Cifar, Digits, Folder, Synthetic)}
_AUGMENTATIONS = {"Karras": Karras}


def pictures_spec(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is written of pictures that the node `data` of a configuration describes, in plain containers; None for a
    class of the user's own. Latents are named too, though they are no pictures that `pictures_from_spec` opens."""
    known = [*_PICTURES, "Latents"]
    spec = _named(config, known)
    if spec is None or spec["name"] not in known:
        return None
    if spec.get("augment") is not None:
        spec["augment"] = _named(spec["augment"], _AUGMENTATIONS)
    return spec


def pictures_from_spec(spec: Any, root: str | None = None) -> Pictures:
    """The data module that `spec` describes. Nothing is downloaded: a file does not choose what is.

    root: where the pictures are now, if they moved. Raises ValueError for what `pictures_spec` does not write.
    """
    arguments = _named(spec, _PICTURES) if isinstance(spec, Mapping) else None
    if arguments is None or arguments["name"] not in _PICTURES:
        raise ValueError(
            f"the pictures {shown(spec)} are of no kind that can be opened; known are {', '.join(_PICTURES)}"
        )
    name, augment = arguments.pop("name"), arguments.pop("augment", None)
    if root is not None:
        if "root" not in arguments:
            raise ValueError(f"data_root={root} is nothing to these pictures: {name} has no folder")
        arguments["root"] = root
    if isinstance(arguments.get("classes"), list):
        arguments["classes"] = [str(name) for name in arguments["classes"]]
    check_arguments(f"the pictures {name}", _PICTURES[name], arguments)
    if name == "Cifar":
        arguments["download"] = False
    if augment is not None:
        arguments["augment"] = built("augment", _named(augment, _AUGMENTATIONS), _AUGMENTATIONS)
    return _PICTURES[name](**arguments)


def _named(spec: Any, registry: Iterable[str]) -> dict[str, Any] | None:
    """A copy in which the class that a configuration names, `_target_: data.X`, is a name of the registry. Files of
    older versions hold configurations."""
    if not isinstance(spec, Mapping):
        return None
    names = {f"data.{name}": name for name in registry}
    arguments = dict(spec)
    target = arguments.pop("_target_", None)
    name = arguments.pop("name", names.get(target) if isinstance(target, str) else None)
    return {"name": name, **arguments} if isinstance(name, str) else None
