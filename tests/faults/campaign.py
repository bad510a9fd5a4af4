"""What every kind of fault shares: chains of starts in one folder, and a line of the table for each kind."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dit.checkpoint import LAST, PREVIOUS, read
from tests.faults.ends import difference, end_of
from tests.faults.runs import STEPS, Failure, Run


@dataclass
class Kind:
    """One kind of fault: how often it struck, at which steps and in which phases; how often a run went on after it."""

    name: str
    steps: list[int] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    went_on: int = 0
    seconds: float = 0.0
    folders: int = 0
    wrong: list[str] = field(default_factory=list)
    not_tried: str | None = None

    def struck(self, phase: str, step: int) -> None:
        self.phases[phase] += 1
        self.steps.append(step)


class Campaign:
    """Runs in `folder`, each kind with random numbers of its own, a function of (seed, kind)."""

    def __init__(self, folder: Path, seed: int, console: Console):
        self.folder, self.seed, self.console = folder, seed, console
        self.kinds: list[Kind] = []
        self._undisturbed: dict[tuple[str, ...], dict[str, str]] = {}

    @contextmanager
    def kind(self, name: str) -> Iterator[tuple[Kind, random.Random]]:
        """Inside, one kind is tried; a Failure ends it, and the next one goes on."""
        kind, begun = Kind(name), time.monotonic()
        self.kinds.append(kind)
        try:
            yield kind, random.Random(f"{self.seed}/{name}")
        except Failure as failure:
            kind.wrong.append(str(failure))
        kind.seconds = time.monotonic() - begun
        self.console.print(f"{name}: {_result(kind)} ({kind.seconds:.0f} s)", soft_wrap=True)

    def undisturbed(self, *more: str) -> dict[str, str]:
        """What the command leaves where nothing disturbs it; run once, in processes of its own."""
        if more not in self._undisturbed:
            folder = self.folder / f"undisturbed{len(self._undisturbed)}"
            Run(folder, *more, forked=False).finish("an undisturbed run")
            self._undisturbed[more] = end_of(folder)
        return self._undisturbed[more]

    def new(self, kind: Kind) -> Path:
        """The name of a run folder that is not there yet."""
        kind.folders += 1
        return self.folder / f"{len(self.kinds):02d}_{kind.folders}"

    def end(self, kind: Kind, folder: Path, *more: str, forked: bool = True) -> Run:
        """The command once more, undisturbed; its end is compared, and the folder removed if it is right."""
        kind.went_on += 1
        run = Run(folder, *more, forked=forked)
        run.finish(f"going on after {kind.name}")
        self.compare(kind, folder, *more)
        return run

    def compare(self, kind: Kind, folder: Path, *more: str) -> None:
        if wrong := difference(self.undisturbed(*more), folder):
            kind.wrong.append(f"{folder.name}: {wrong}")
        else:
            shutil.rmtree(folder)

    def chain(self, kind: Kind, strikes: int, strike: Callable[[Path], Run | None]) -> None:
        """`strike` starts a run and disturbs it, None if the run came to its end before that: then a new chain begins.

        After `strikes` of them the last one is ended undisturbed.
        """
        folder, left, missed = self.new(kind), strikes, 0
        while left:
            if (run := strike(folder)) is None:
                self.compare(kind, folder)
                folder, missed = self.new(kind), missed + 1
                if missed > 2 * strikes + 3:
                    raise Failure(f"{missed} runs ended before they could be struck")
                continue
            kind.struck(*run.struck)
            check_good(run)
            left -= 1
            kind.went_on += bool(left)
        self.end(kind, folder)

    def begun(self, kind: Kind, at: int = STEPS // 2, **how: bool) -> Run:
        """A run in a new folder that has come to about step `at`, and runs."""
        run = Run(self.new(kind), **how)
        run.until(lambda: run.board.step >= at, f"until step {at}")
        if run.poll() is not None:
            raise Failure(f"ended before step {at}: {run.text.strip().splitlines()[-1:]}")
        return run

    def table(self) -> Table:
        table = Table(title=f"fault campaign, seed {self.seed}", show_lines=True)
        for name in ("fault", "struck", "in which phase", "steps", "went on", "seconds", "result"):
            table.add_column(name, justify="right" if name in ("struck", "went on", "seconds") else "left")
        for kind in self.kinds:
            phases = ", ".join(f"{count} {phase}" for phase, count in kind.phases.most_common())
            steps = f"{min(kind.steps)} to {max(kind.steps)}" if kind.steps else ""
            struck, seconds = str(len(kind.steps)), f"{kind.seconds:.0f}"
            table.add_row(kind.name, struck, phases, steps, str(kind.went_on), seconds, _result(kind))
        totals = [sum(len(kind.steps) for kind in self.kinds), sum(kind.went_on for kind in self.kinds)]
        result = f"{sum(bool(kind.wrong) for kind in self.kinds)} of {len(self.kinds)} went wrong"
        seconds = f"{sum(kind.seconds for kind in self.kinds):.0f}"
        table.add_row("all", str(totals[0]), "", "", str(totals[1]), seconds, result)
        return table

    @property
    def failed(self) -> bool:
        return any(kind.wrong for kind in self.kinds)


def _result(kind: Kind) -> str:
    if kind.not_tried:
        return f"not tried: {kind.not_tried}"
    return "; ".join(kind.wrong) or "bit for bit"


def check_good(run: Run) -> None:
    """Failure where a run that has written a checkpoint is left without a good one."""
    folder, refusals = run.folder / "checkpoints", []
    there = [file for name in (LAST, PREVIOUS) if (file := folder / name).exists()]
    for file in there:
        try:
            read(file)
        except ValueError as error:
            refusals.append(str(error))
    if refusals:
        raise Failure(f"{run.struck[0]}, step {run.struck[1]}: {'; '.join(refusals)}")
