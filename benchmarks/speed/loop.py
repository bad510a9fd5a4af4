"""THE LOOP: a step of `python train.py` beside a bare loop on the same model, in one process, block by block."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.rounds import speed_up, spread, take_turns
from benchmarks.speed import losses, models
from benchmarks.speed.machine import Products, highest
from benchmarks.speed.setting import Setting
from benchmarks.speed.tables import ABOVE, Table, label, number, quartiles, share, times
from dit.model.count import count

ROOT = Path(__file__).parents[2]
LOGGED = 50  # steps: trainer.log_every_n_steps as it is by default; as many are measured, or a multiple
BLOCK, WARM_UP, ON_GPU, TRACED = 5, 10, 20, 3  # steps


def measure(setting: Setting) -> dict[str, Any]:
    """The first model in bf16 and, unless quick, compiled: what the trainer does by default on a GPU, asked for."""
    name, steps = setting.models[0], 10 if setting.quick else ON_GPU if setting.device == "cuda" else LOGGED
    size = models.arguments(name)
    keys = ("patch_size", "hidden_size", "depth", "num_heads")
    command = [
        *("train.py", "data=synthetic"),
        *(f"data.{key}={size[key]}" for key in ("image_size", "channels", "num_classes")),
        *(f"model.{key}={size[key]}" for key in keys),
        *(f"data.batch_size={setting.pictures}", "data.pictures=2048", "lr_schedule.warmup=1"),
        *("steps=1", "callbacks.preview.classes=1", "callbacks.preview.per_class=1"),  # of step 0
        *(f"trainer.max_steps={WARM_UP + steps + TRACED + 1}", f"trainer.accelerator={ACCELERATOR[setting.device]}"),
        *("trainer.precision=bf16-mixed", f"compile={'null' if setting.quick else 'inductor'}"),
        f"trainer.log_every_n_steps={steps}",
        *(f"+callbacks.speed.{key}={value}" for key, value in {**WATCH, "steps": steps}.items()),
    ]
    setting.say(f"loop {name}, batch {setting.pictures}: {steps} steps of train.py and as many bare ones")
    told = {"model": name, "batch": setting.pictures, "steps": steps, "compiled": not setting.quick}
    told |= watched(command)
    products = Products(setting.device, name, setting.pictures, ["bf16"], setting.quick)
    told["products"] = products.rates(take_turns(products.arms, setting.rounds, warm_up=2).seconds)
    told["flops"] = 3 * 2e9 * setting.pictures * count({"name": "dit", **size})[1]
    return {"runs": [told]}


WATCH = {"_target_": "benchmarks.speed.bare.AgainstBare", "block": BLOCK, "warm_up": WARM_UP, "traced": TRACED}


def watched(command: list[str]) -> dict[str, Any]:
    """What `AgainstBare` has seen of this run of train.py, in a folder that is left to nobody."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "loop.json"
        extra = [f"hydra.run.dir={folder}", f"+callbacks.speed.out={out}"]
        done = subprocess.run([sys.executable, *command, *extra], cwd=ROOT, capture_output=True, text=True)
        if done.returncode or not out.exists():
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return {"overrides": command[1:], **json.loads(out.read_text())}


ACCELERATOR = {"cpu": "cpu", "cuda": "gpu"}


def tables(result: dict[str, Any]) -> Iterator[Table]:
    for run in result["runs"]:
        bare, whole = (run["seconds"][way] for way in ("bare", "train.py"))
        ratio = speed_up(bare, whole)  # of times: how much longer train.py takes
        rate = statistics.median(highest(run["products"], "bf16"))
        rows, above = [], []
        for way, seconds in (("bare loop", bare), ("train.py", whole)):
            median = spread(seconds).median
            mfu = run["flops"] / median / rate
            rows.append([way, number(median * 1e3), number(run["batch"] / median), share(mfu)])
            above += [ABOVE.format(way)] * (mfu > 1)
        added = sum(whole) / sum(bare) - 1
        notes = [
            f"train.py takes {added:+.1%} over the bare loop, all {run['steps']} steps together; by blocks of {BLOCK} "
            f"steps the ratio of times is {times(ratio)} (quartiles {quartiles(ratio)}). Waiting for data takes "
            f"{share(run['waiting'] / run['watched'])} of the run.",
            "bare loop: the network, the path, the loss and fused AdamW on a batch that lies ready. train.py adds "
            "Lightning, draws by picture number, clipping, the gradient norm, EMA, logs, progress and data.",
        ]
        compiled = ", compiled" if run["compiled"] else ""
        title = f"train.py beside a bare loop, {label(run['model'])}, batch {run['batch']}, bf16{compiled}"
        yield Table(title, ["", "ms a step", "images/s", "MFU"], rows, [*notes, *above])
        hooks = [
            [name, number(1e3 * seconds), share(seconds * run["steps"] / run["watched"])]
            for name, seconds in run["hooks"]
        ]
        yield Table("Where Lightning's time goes besides forward and backward", ["hook", "ms a step", "share"], hooks)
        what = f"train.py, {label(run['model'])}, batch {run['batch']}, bf16{compiled}"
        yield from losses.tables(run["trace"], what, run["flops"], rate)
