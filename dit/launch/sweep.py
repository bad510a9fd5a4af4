"""The trials of a sweep, side by side on the slots of this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dit.checks import printable
from dit.launch.manifest import Manifest, Trial
from dit.launch.ranks import Ranks, cores, forwarding


class Slots:
    """What trials take and give back: the GPUs this process sees, or numbered slots that stand for nothing.

    count: so many numbered slots, each trial taking one and seeing all GPUs; None: the GPUs, or one slot without GPUs.
    """

    def __init__(self, count: int | None):
        import torch

        self.gpus = 0 if count is not None else torch.cuda.device_count()
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        names = (visible or [str(number) for number in range(self.gpus)])[: self.gpus]
        self.free = names or [str(number) for number in range(count or 1)]
        self.total = len(self.free)

    def take(self, size: int) -> list[str] | None:
        """So many of the free ones, or None while there are fewer."""
        if len(self.free) < size:
            return None
        taken, self.free = self.free[:size], self.free[size:]
        return taken

    def give_back(self, taken: list[str]) -> None:
        self.free = sorted([*self.free, *taken])

    def environment(self, taken: list[str]) -> dict[str, str]:
        """What a trial is told about its slot; CPU cores are shared out evenly unless OMP_NUM_THREADS is set."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(taken)} if self.gpus else {}


@dataclass
class TrialPlan:
    """A trial to run: how many slots and processes, and how to make its folder and the packed job in it."""

    trial: Trial
    slots: int
    ranks: int
    prepare: Callable[[], tuple[list[str], bytes]]


class Sweep:
    """Runs what is planned, in order, as slots come free; trial k writes to `<its folder>/output.log`.

    A trial that fails is noted in the manifest and the next one goes on. A broken trial is done again in the folder it
    left, where training goes on from its newest checkpoint. fixed: overrides that all trials share, which need no
    mention.
    """

    def __init__(self, manifest: Manifest, slots: Slots, console: Console, fixed: Sequence[str] = ()):
        self.manifest, self.slots, self.console, self.fixed = manifest, slots, console, fixed
        self._running: dict[int, tuple[TrialPlan, Ranks, IO[bytes]]] = {}

    def run(self, planned: list[TrialPlan]) -> None:
        """Until all have ended. SystemExit if a signal ended them: it went to the trials, and no other was started."""
        queue, ranks, shown = list(planned), [], Text()
        for item in queue:
            item.trial.state = "queued"
        self.manifest.write()
        with forwarding(ranks) as signals, Live(console=self.console, auto_refresh=False, transient=True) as live:
            while (queue and not signals) or self._running:
                while queue and not signals and (slot := self.slots.take(queue[0].slots)) is not None:
                    self._start(queue.pop(0), slot)
                before, ranks[:] = list(ranks), [group for _, group, _ in self._running.values()]
                for late in [group for group in ranks if signals and group not in before]:
                    late.send(signals[-1])  # which came while it was being started
                ended = [number for number, (_, group, _) in self._running.items() if group.poll() is not None]
                for number in ended:
                    self._end(number)
                if self.console.is_terminal and (status := self._status(len(queue))) != shown:
                    live.update(shown := status, refresh=True)
                if not ended:
                    time.sleep(0.1)
        if signals:
            raise SystemExit(128 + signals[0])

    def _start(self, planned: TrialPlan, slot: list[str]) -> None:
        trial, folder = planned.trial, self.manifest.folder / planned.trial.folder
        command, job = planned.prepare()
        log = (folder / "output.log").open("ab")
        threads = max(1, cores() // planned.ranks // (self.slots.total // planned.slots))
        shared = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        ranks = Ranks(command, job, planned.ranks, shared | self.slots.environment(slot), log)
        self._running[trial.number] = planned, ranks, log
        trial.state, trial.slot, trial.started = "running", slot, _now()
        trial.ended = trial.exit_code = trial.error = trial.value = None
        self.manifest.write()
        where = f" on GPU {','.join(slot)}" if self.slots.gpus else ""
        self._say(f"#{trial.number} started{where}: {' '.join(o for o in trial.overrides if o not in self.fixed)}")

    def _end(self, number: int) -> None:
        planned, ranks, log = self._running.pop(number)
        trial, code = planned.trial, ranks.poll()
        log.close()
        assert trial.slot is not None
        self.slots.give_back(trial.slot)
        trial.ended, trial.exit_code = _now(), code
        if code == 0 and ranks.finished:
            trial.state, trial.value = "finished", ranks.value
            shown = f": {trial.value:.5g}" if isinstance(trial.value, float) else ""
            self._say(f"#{number} finished{shown}")
        else:
            trial.state, trial.error = "failed", ranks.error or ranks.death
            self._say(f"#{number} failed: error: {trial.error} ({self.manifest.folder / trial.folder / 'output.log'})")
        self.manifest.write()

    def _say(self, line: str) -> None:
        self.console.print(Text(printable(line)), soft_wrap=True)

    def _status(self, queued: int) -> Text:
        """A line for each running trial, with the last of what it wrote, and one for the rest."""
        lines = []
        for number in self._running:
            lines.append(f"#{number}  {_last_line(self.manifest.folder / self._running[number][0].trial.folder)}")
        lines.append(f"{len(self._running)} running, {queued} queued")
        return Text("\n".join(printable(line)[: self.console.width - 1] for line in lines))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _last_line(folder: Path) -> str:
    with (folder / "output.log").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "starting")
