"""Two processes that train together: one of them, or the one that started them, is struck."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

from tests.faults.campaign import Campaign, check_good
from tests.faults.killed import step_of, unfinished
from tests.faults.runs import LIMIT, STEPS, Failure, Run, alive, children

TWO = "trainer.devices=2"
WHEN = ("starting", "training", "checkpoint")


def ranks_killed(campaign: Campaign, whens: tuple[str, ...] = WHEN) -> None:
    """The launcher must end the other within a minute, and leave with an error."""
    with campaign.kind("two ranks: kill -9 of one") as (kind, random):
        folder = campaign.new(kind)
        for when in whens:
            for rank in (1, 0):
                run, ranks = _come_to(when, folder, random)
                os.kill(ranks[rank], signal.SIGKILL)
                phase = f"rank {rank}, {when}"
                code = run.wait(f"killed {phase}")
                if code == 0:
                    raise Failure(f"{phase}: exit code 0")
                if "error" not in run.text.lower():
                    raise Failure(f"{phase}: exit code {code}, and nothing was said")
                _none_left(ranks, phase)
                kind.struck(phase, step_of(folder))
                check_good(run)
                kind.went_on += 1
        kind.went_on -= 1
        campaign.end(kind, folder, TWO)


def launcher_struck(campaign: Campaign) -> None:
    """No rank outlives it, and asked to end it lets them save."""
    with campaign.kind("two ranks: their launcher struck") as (kind, random):
        folder = campaign.new(kind)
        for number, when in (
            (signal.SIGKILL, "starting"),
            (signal.SIGKILL, "training"),
            (signal.SIGTERM, "training"),
            (signal.SIGKILL, "checkpoint"),
        ):
            run, ranks = _come_to(when, folder, random)
            run.send(number)
            phase = f"{number.name}, {when}"
            code = run.wait(phase)
            if code not in (-number, 128 + number):
                raise Failure(f"{phase}: exit code {code}: {run.text.strip()[-300:]}")
            _none_left(ranks, phase)
            kind.struck(phase, step_of(folder))
            check_good(run)
            kind.went_on += 1
        kind.went_on -= 1
        campaign.end(kind, folder, TWO)


def poisoned(campaign: Campaign) -> None:
    """A loss that is not finite on one rank alone; the other must not wait for ever."""
    with campaign.kind("two ranks: a loss that is not finite on one") as (kind, random):
        folder, rank, step = campaign.new(kind), random.randint(0, 1), random.randint(20, STEPS // 2)
        keys = {"_target_": "tests.faults.poison.Poison", "rank": rank, "step": step}
        run = Run(folder, TWO, *(f"+callbacks.poison.{key}={value}" for key, value in keys.items()))
        _, ranks = _come_to("starting", folder, random, run)
        code = run.wait("a loss that is not finite")
        if code == 0 or "not finite" not in run.text:
            raise Failure(f"exit code {code}: {run.text.strip()[-300:]}")
        _none_left(ranks, "a loss that is not finite")
        kind.struck(f"rank {rank}, training", step)
        check_good(run)
        campaign.end(kind, folder, TWO)


def _come_to(when: str, folder: Path, random: Random, run: Run | None = None) -> tuple[Run, list[int]]:
    """A run of two processes at that point, and their ids by rank."""
    run = run or Run(folder, TWO)
    run.until(lambda: len(children(run.pid)) == 2, "until there are two ranks", pause=0.02)
    ranks = sorted(children(run.pid), key=_rank)
    if when == "starting":
        time.sleep(random.uniform(0.1, 4))
        return run, ranks
    before = step_of(folder)
    run.until(lambda: step_of(folder) > before, "until the first checkpoint of two ranks", pause=0.02)
    if when == "training":
        time.sleep(random.uniform(0, 0.3))
    else:
        run.until(lambda: unfinished(folder), "until two ranks write a checkpoint", pause=0)
    if run.poll() is not None:
        raise Failure(f"ended too early with {run.poll()}: {run.text.strip()[-300:]}")
    return run, ranks


def _rank(pid: int) -> int:
    """As its environment says, once it has one of its own."""
    for _ in range(1000):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"RANK="):
                return int(entry.removeprefix(b"RANK="))
        time.sleep(0.01)
    raise Failure(f"process {pid} has no rank")


def _none_left(ranks: list[int], phase: str) -> None:
    end = time.monotonic() + LIMIT
    while any(map(alive, ranks)):
        if time.monotonic() > end:
            for pid in filter(alive, ranks):
                os.kill(pid, signal.SIGKILL)
            raise Failure(f"ranks were left for {LIMIT:.0f} s: {phase}")
        time.sleep(0.02)
