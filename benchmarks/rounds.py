"""TAKING TURNS: ways to do the same work are timed round by round, so that a machine whose speed drifts favours none.

What is compared is the ratio of two ways within each round; its median and quartiles over the rounds are reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Arm = Callable[[], float]  # does one unit of work and returns its seconds


@dataclass(frozen=True)
class Turns:
    """first: seconds of each arm's first unit, which compiles and fills caches; seconds: of each later round."""

    first: dict[str, float]
    seconds: dict[str, list[float]]


@dataclass(frozen=True)
class Spread:
    """A median with the lower and upper quartile around it."""

    low: float
    median: float
    high: float


def timed(work: Callable[[], object], wait: Callable[[], object] | None = None) -> Arm:
    """An arm of a plain function. wait: until the device has finished what it was told, as torch.cuda.synchronize."""

    def arm() -> float:
        begun = time.perf_counter()
        work()
        if wait is not None:
            wait()
        return time.perf_counter() - begun

    return arm


def take_turns(arms: Mapping[str, Arm], rounds: int, warm_up: int = 1) -> Turns:
    """One unit of every arm in each of `warm_up` rounds, which are forgotten but for the first, and then of `rounds`.

    Every other round runs backwards, so that no arm always follows the same one.
    """
    if rounds < 1 or warm_up < 1:
        raise ValueError(f"rounds and warm_up must be at least 1, got {rounds} and {warm_up}")
    first = {name: arm() for name, arm in arms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(warm_up - 1 + rounds):
        for name in arms if number % 2 == 0 else reversed(arms):
            spent = arms[name]()
            if number >= warm_up - 1:
                seconds[name].append(spent)
    return Turns(first, seconds)


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    if len(values) == 1:
        return Spread(*[values[0]] * 3)
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def speed_up(mine: Sequence[float], base: Sequence[float]) -> Spread:
    """How many times as fast as `base`, by the seconds of the same rounds."""
    return spread([b / m for m, b in zip(mine, base, strict=True)])
