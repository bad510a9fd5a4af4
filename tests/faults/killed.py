"""One process: killed at random, killed at chosen moments, asked to stop, its checkpoints damaged."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from dit.checkpoint import LAST, PREVIOUS, read
from tests.faults.campaign import Campaign, check_good
from tests.faults.phases import MOMENTS, Strike
from tests.faults.runs import STEPS, Failure, Run

SECONDS = 2.0  # within which strikes at random moments come: some while a run is starting, most while it trains


def kills(campaign: Campaign, count: int) -> None:
    """At moments that nobody chose."""
    with campaign.kind("kill -9 at random moments") as (kind, random):
        campaign.chain(kind, count, lambda folder: _struck_at_random(folder, random, signal.SIGKILL))


def kills_of_fresh_processes(campaign: Campaign, count: int) -> None:
    """As `kills`, without the shortcut of forks: every start imports for itself."""
    with campaign.kind("the same, every start a fresh process") as (kind, random):
        folder = campaign.new(kind)
        for _ in range(count):
            run = Run(folder, forked=False)
            before = step_of(folder)
            moved = run.until(lambda before=before: step_of(folder) > before, "until the next checkpoint", pause=0.01)
            time.sleep(random.uniform(0, 0.4))
            if not moved or run.poll() is not None:
                break
            run.kill()
            kind.struck("training, or writing", step_of(folder))
            kind.went_on += 1
        kind.went_on -= 1
        campaign.end(kind, folder, forked=False)


def kills_in_writes(campaign: Campaign, count: int) -> None:
    """From outside, as soon as the temporary file of a checkpoint is seen."""
    with campaign.kind("kill -9 where half a checkpoint is seen") as (kind, random):

        def strike(folder: Path) -> Run | None:
            run = Run(folder)
            step = run.board.step + random.randint(0, STEPS // 5)
            run.until(lambda: run.board.step > step and unfinished(folder), "until a checkpoint is written", pause=0)
            if run.poll() is not None:
                return None
            return run.kill()

        campaign.chain(kind, count, strike)


def kills_at_moments(campaign: Campaign, rounds: int) -> None:
    """From inside, at each of the MOMENTS in which files are half done, at random ones of their occurrences."""
    with campaign.kind("kill -9 at chosen moments") as (kind, random):
        for _ in range(rounds):
            folder = campaign.begun(kind, at=30).kill().folder
            for moment in random.sample(list(MOMENTS), len(MOMENTS)):
                count = random.randint(1, 5) if "checkpoint," in moment or "half" in moment else 1
                run = Run(folder, strike=Strike(moment, count))
                if run.wait(moment) != -signal.SIGKILL:  # it was through before that
                    campaign.compare(kind, folder)
                    folder = campaign.begun(kind, at=30).kill().folder
                    run = Run(folder, strike=Strike(moment, 1))
                    if run.wait(moment) != -signal.SIGKILL:
                        raise Failure(f"did not come to {moment!r}: {run.text.strip().splitlines()[-1:]}")
                kind.struck(moment, run.board.step)
                check_good(run)
            campaign.end(kind, folder)
            kind.went_on += len(MOMENTS)


def signals(campaign: Campaign, count: int) -> None:
    """Of those that SLURM and a terminal send: the run saves and leaves with 128 + n, as a shell counts."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        with campaign.kind(f"{number.name} at random moments") as (kind, random):
            campaign.chain(
                kind, count, lambda folder, number=number, random=random: _struck_at_random(folder, random, number)
            )


def _struck_at_random(folder: Path, random: Random, number: int) -> Run | None:
    run = Run(folder)
    moment = time.monotonic() + random.uniform(0, SECONDS)
    while time.monotonic() < moment and run.poll() is None:
        time.sleep(0.001)
    if run.poll() is not None:
        return None
    run.send(number)
    name = f"{signal.Signals(number).name}, {run.struck[0]}, step {run.struck[1]}"
    code = run.wait(name)
    if code == 0 and "checkpoint: " in run.text:
        return None  # too late
    if code not in (-number, 128 + number):
        raise Failure(f"exit code {code} after {name}: {run.text.strip()[-300:]}")
    return run


def damaged(campaign: Campaign) -> None:
    """Of a run that was killed, files are damaged before it goes on."""
    with campaign.kind("undamaged, copied") as (kind, _):
        run = campaign.begun(kind)
        run.until(lambda: not unfinished(run.folder), "until no checkpoint is written", pause=0)
        run.kill()
        kind.struck(*run.struck)
        original = {file: file.read_bytes() for file in sorted(run.folder.rglob("*")) if file.is_file()}
        campaign.end(kind, run.folder)
    size = len(original[run.folder / "checkpoints" / LAST])
    ways: dict[str, list[Callable[[Path], None]]] = {
        "newest checkpoint truncated": [
            lambda file, left=left: os.truncate(file, left) for left in (1, 1000, size // 2, size - 1)
        ],
        "newest checkpoint empty": [lambda file: os.truncate(file, 0)],
        "newest checkpoint missing": [lambda file: file.unlink()],
        "a flipped bit in the newest checkpoint": [
            lambda file, place=place: _flip(file, place) for place in (0, 40, size // 3, size // 2, size - 30)
        ],
        "both there, and half of another beside them": [lambda file: _beside(file)],
    }
    for name, damages in ways.items():
        with campaign.kind(name) as (kind, _):
            for damage in damages:
                folder = campaign.new(kind)
                for file, content in original.items():
                    copy = folder / file.relative_to(run.folder)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(content)
                damage(folder / "checkpoints" / LAST)
                kind.struck("not running", read(folder / "checkpoints" / PREVIOUS)["global_step"])
                campaign.end(kind, folder)


def _flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)


def _beside(file: Path) -> None:
    file.with_name(f".{file.name}.1.tmp").write_bytes(file.read_bytes()[:5000])


def step_of(folder: Path) -> int:
    """Of the newest checkpoint; 0 where there is none."""
    file = folder / "checkpoints" / LAST
    try:
        return read(file)["global_step"] if file.exists() else 0
    except (ValueError, FileNotFoundError):  # between the two renames
        return 0


def unfinished(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    try:
        return any(entry.name.endswith(".tmp") for entry in os.scandir(folder / "checkpoints"))
    except FileNotFoundError:
        return False
