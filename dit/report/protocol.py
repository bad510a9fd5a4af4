"""Under which protocol the numbers of a sweep were measured, and whether they may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dit.report.read import Sweep, Trial

_CHOSEN = ("checkpoint", "seed", "guidance", "solver", "steps", "scale", "scales", "evaluations", "grid", "name")
_CHOSEN += ("real_pictures",)  # follows from images, labels and reference
_DECIDES = {"ema": "weights", "checkpoint": "step", "max_steps": "step"}  # facts by keys of other names


def score_protocol(sweep: Sweep) -> tuple[str, list[str]]:
    """What all scores share, in one line, and a warning for each fact of comparison in which they differ."""
    told = [(trial, _flat(trial.protocol)) for trial in sweep.trials if trial.scores]
    shared, differing = _compared(told)
    # What was swept differs on purpose.
    names = {part for key in sweep.swept for part in key.split(".")}
    names |= {_DECIDES[name] for name in names if name in _DECIDES}
    return _line(shared), [
        f"scores were measured under different protocols: {key} is {_apart(values)}"
        for key, values in differing.items()
        if key.partition(".")[0] not in {*_CHOSEN, *names}
    ]


def loss_protocol(sweep: Sweep) -> tuple[str, list[str]]:
    """The same of the validation loss."""
    told = []
    for trial in sweep.trials:
        if any(key.startswith("val") for key in trial.curves):
            kept = {key: trial.config[key] for key in ("validation", "data") if key in trial.config}
            facts = {k: v for k, v in _flat(kept).items() if k.startswith("validation.") or k in _PICTURES}
            told.append((trial, facts))
    shared, differing = _compared(told)
    return _line({key: value for key, value in shared.items() if key != "validation._target_"}), [
        f"validation losses were measured under different protocols: {key} is {_apart(values)}"
        for key, values in differing.items()
    ]


_PICTURES = ("data._target_", "data.root", "data.image_size", "data.channels", "data.validation_images", "data.classes")


def _flat(facts: Any, inside: str = "") -> dict[str, str]:
    if isinstance(facts, dict):
        return {k: v for key, fact in facts.items() for k, v in _flat(fact, f"{inside}{key}.").items()}
    return {inside[:-1] or "protocol": f"{facts:g}" if isinstance(facts, float) else str(facts)}


def _compared(
    told: Sequence[tuple[Trial, dict[str, str]]],
) -> tuple[dict[str, str], dict[str, dict[str, list[int]]]]:
    """Facts that are the same in all, and of the others who has which value."""
    shared, differing = {}, {}
    for key in dict.fromkeys(key for _, facts in told for key in facts):
        values: dict[str, list[int]] = {}
        for trial, facts in told:
            values.setdefault(facts.get(key, "not told"), []).append(trial.number)
        if len(values) == 1:
            shared[key] = next(iter(values))
        else:
            differing[key] = values
    return shared, differing


def _line(shared: dict[str, str]) -> str:
    """images: 500; labels: balanced; reference: name digits, images 360; ..."""
    groups: dict[str, list[str]] = {}
    for key, value in shared.items():
        if value != "None":
            group, _, name = key.partition(".")
            groups.setdefault(group, []).append(f"{name.replace('_', ' ').strip()} {value}" if name else value)
    return "; ".join(f"{group}: {', '.join(said)}" for group, said in groups.items())


def _apart(values: dict[str, list[int]]) -> str:
    """900 in #0, #1 but 500 in #2."""
    said = []
    for value, numbers in values.items():
        more = f" and {len(numbers) - 4} others" if len(numbers) > 4 else ""
        said.append(f"{value} in {', '.join(f'#{n}' for n in numbers[:4])}{more}")
    return " but ".join(said)
