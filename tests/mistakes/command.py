"""A command with one strange value, in a copy of this process, and how it ended."""

from __future__ import annotations

import os
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from dit.resolvers import register_resolvers
from tests.data.caches import save_vae
from tests.forked import become

ROOT = Path(__file__).parents[2]
LIMIT = 30.0  # seconds for a refusal
# A value that fits is taken; a mistake is refused in one sentence, or by Hydra, whose grammar it breaks.
OUTCOMES = "taken", "refused", "refused by Hydra"

VALUES = [
    "null", "true", "false", "-1", "0", "-0.5", "0.5", "1.5", "7", "1000000000000", "100000000000000000000", "1e20",
    "-1e20", "1e-20", "nan", "inf", "-inf", "''", "' '", "x", "1e-3x", "'a b'", "'[red]x[/red]'", "'[/x]'", "[]",
    "[1]", "[0.9]", "[a,b]", "[[1]]", "{}", "{a:1}", "'\x1b[31mred'", "'../../x'", "'~/x'", "'=1+1'", "'${seed}'",
]  # fmt: skip
FAST = [
    "experiment=digits", "model=dit_tiny", "trainer.max_steps=2", "validate_every=2", "trainer.accelerator=cpu",
    "lr_schedule.warmup=1", "callbacks.preview.per_class=1", "callbacks.preview.classes=2", "steps=1",
    "validation.levels=[0]", "data.validation_images=4",
]  # fmt: skip


@dataclass(frozen=True)
class Met:
    """How a command met a value; said: its last words where that was wrong."""

    override: str
    outcome: str
    seconds: float
    said: str = ""


class Commands:
    """The commands, each with options that make it quick, and the keys of its configuration."""

    def __init__(self, folder: Path):
        self.folder, self.number = folder, 0
        register_resolvers()
        for module in ("lightning", "data", "dit.checkpoint", "dit.metrics", "dit.evaluate", "dit.training"):
            __import__(module)
        checkpoint = folder / "run" / "checkpoints" / "last.ckpt"
        few, vae = ["device=cpu", "steps=1"], save_vae(folder / "vae")
        self.options = {
            "train": ["train.py", *FAST],
            "sample": ["sample.py", f"checkpoint={checkpoint}", "per_class=1", *few],
            "evaluate": ["evaluate.py", f"checkpoint={checkpoint}", "images=20", "replicates=9", *few,
                         "metrics=[frechet]", f"cache={folder}/cache"],
            "inspect": ["-m", "data.inspect", "data=digits", "limit=5", "samples=1", "classes_shown=2"],
            "latents": ["-m", "data.latents", "data=synthetic", "data.pictures=20", f"vae={vae}", "device=cpu"],
        }  # fmt: skip
        for name in ("train", "evaluate"):  # a checkpoint, and a classifier that is kept
            code, said, _ = self.run(name, [], folder / "run" if name == "train" else folder / "scores", 600)
            assert code == 0, said
        self.keys = {name: self._keys(name) for name in self.options}

    def strike(self, name: str, key: str, rng: random.Random) -> Met:
        self.number += 1
        value, out = rng.choice(VALUES), self.folder / f"out{self.number}"
        override = f"{key}={value}"
        code, said, seconds = self.run(name, [override], out, LIMIT)
        outcome = self._judge(code, said, key, value, out)
        shutil.rmtree(out, ignore_errors=True)
        last = "\n".join(said.strip().splitlines()[-3:])
        return Met(override, outcome, seconds, "" if outcome in OUTCOMES else last)

    def _judge(self, code: int | None, said: str, key: str, value: str, out: Path) -> str:
        if code is None:
            return "taken" if "steps 0 to" in said else "over 30 s"
        if "Traceback (most recent call last)" in said:
            return "a traceback"
        if code == 0:
            return "taken"
        if code != 1:
            return f"exit code {code}"
        sentences = [line for line in said.splitlines() if line.startswith("error: ")]
        if not sentences and re.search(r"See https://hydra\.cc|Could not (find|override)|override|interpolation", said):
            return "refused by Hydra"
        if len(sentences) != 1:
            return f"{len(sentences)} sentences"
        if out.exists():
            return "a folder left"
        *_, parent, last = ["", *key.split(".")]
        if not re.search(rf"\b({re.escape(last)}|{re.escape(parent or last)})\b", sentences[0]):
            return "a sentence without the key"
        return "refused"

    def run(self, name: str, more: list[str], out: Path, limit: float) -> tuple[int | None, str, float]:
        """Exit code, None where it ran past `limit`; what was said; seconds."""
        where = "hydra.run.dir" if name in ("train", "evaluate") else "out"
        command = [*self.options[name], *more, f"{where}={out}"]
        output, start = tempfile.TemporaryFile(), time.monotonic()  # noqa: SIM115 closed with the process
        if (pid := os.fork()) == 0:
            become(lambda: self._run(command, output.fileno()))
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() - start > limit:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None, os.pread(output.fileno(), 10**6, 0).decode(errors="replace"), limit
            time.sleep(0.01)
        said = os.pread(output.fileno(), 10**6, 0).decode(errors="replace")
        return os.waitstatus_to_exitcode(ended[1]), said, time.monotonic() - start

    def _run(self, command: list[str], output: int) -> None:
        os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(self.folder)  # a value may be a path
        sys.argv = command[1:] if command[0] == "-m" else command
        if command[0] == "-m":
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / command[0]), run_name="__main__")

    def _keys(self, name: str) -> list[str]:
        """Every key of the configuration, parts and groups among them, but for where the command writes."""
        options = [option for option in self.options[name] if "=" in option]
        config = {"inspect": "inspect", "latents": "latents"}.get(name, name)
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            node = OmegaConf.to_container(compose(config, options), resolve=False)
        GlobalHydra.instance().clear()
        return [key for key in _flat(node) if not key.startswith(("paths", "out", "cache")) and "_target_" not in key]


def _flat(node: object, name: str = "") -> list[str]:
    own = [name] if name else []
    if not isinstance(node, dict):
        return own
    return own + [key for k, value in node.items() for key in _flat(value, f"{name}.{k}" if name else str(k))]
