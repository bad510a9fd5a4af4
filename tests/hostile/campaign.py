"""Files damaged at random, and values of strangers in random places: what became of each."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from dit.tensors import DIGESTS, METADATA_DIGEST
from tests.hostile.calls import call, places, put
from tests.hostile.kinds import KINDS, Kind, fingerprint

OUTCOMES = ("refused", "harmless", "taken", "traceback")  # taken: read as something else without a word


SAYING = (".json", ".yaml", ".safetensors", ".ckpt", ".pt")  # files that say something of what is in them


def flip(raw: bytearray, rng: random.Random) -> None:
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)


def cut(raw: bytearray, rng: random.Random) -> None:
    del raw[rng.randrange(len(raw)) :]


def blank(raw: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(raw))
    raw[at : at + 64] = bytes(len(raw[at : at + 64]))


def repeat(raw: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(raw))
    raw[at:at] = raw[at : at + 16]


def garble(raw: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(raw))
    raw[at : at + 8] = rng.randbytes(8)


def empty(raw: bytearray, rng: random.Random) -> None:
    raw.clear()


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, flip, flip, cut, blank, repeat, garble, empty)


def values(proof: Path) -> list[Any]:
    """Of strangers: calls, wrong types, numbers without bound, what terminals, shells, pages and spreadsheets obey."""
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    return [
        call(proof), {"_target_": "os.system", "command": f"touch {proof}"}, None,
        True, "", [], {}, -1, 0, 1 << 70, 1e308,
        float("nan"), float("inf"), "\x1b]0;owned\x07", "[/x]", "[red]", "=1+1", "../../x", "/etc/passwd", "~/x", deep,
        "${oc.env:HOME}", "<script>alert(1)</script>", "somebody/evil-vae", "x" * 100_000, "a\nb", "\ud800", "$x^2_",
        {"name": "x"}, [1, "a", None], "dit.launch.Ranks", f"$(touch {proof})",
    ]  # fmt: skip


def read(kind: Kind, folder: Path, good: str | None) -> tuple[str, str]:
    """One of OUTCOMES, and what was said."""
    try:
        found = fingerprint(kind.read(folder))
    except ValueError as error:
        return ("refused", str(error)) if "\n" not in str(error) else ("traceback", f"several lines: {error}")
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return "harmless" if good in (None, found) else "taken", ""


def damage(name: str, folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Strikes a file of a kind `count` times, one strike at a time: how often which outcome, and what was wrong."""
    kind, rng, tally, wrong = KINDS[name], random.Random(f"{seed} {name}"), Counter[str](), []
    files = kind.make(_fresh(folder / "good"))
    good = fingerprint(kind.read(folder / "good"))
    for _ in range(count):
        shutil.rmtree(folder / "struck", ignore_errors=True)
        shutil.copytree(folder / "good", folder / "struck")
        file = folder / "struck" / rng.choice(files).relative_to(folder / "good")
        strike, raw = rng.choice(DAMAGES), bytearray(file.read_bytes())
        strike(raw, rng)
        file.write_bytes(raw)
        outcome, said = read(kind, folder / "struck", good if kind.checked else None)
        tally[outcome] += 1
        if outcome in ("taken", "traceback"):
            wrong.append(f"{name}: {strike.__name__} of {file.name}: {outcome} {said[:200]}")
    return tally, wrong


def strange(name: str, folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Puts a value of a stranger into a random place of what a file says, `count` times. "harmless" is left as data."""
    kind, rng, tally, wrong = KINDS[name], random.Random(f"{seed} {name}"), Counter[str](), []
    files = [f for f in kind.make(_fresh(folder / "good")) if f.suffix in SAYING]
    proof = folder / "proof"
    for _ in range(count):
        shutil.rmtree(folder / "struck", ignore_errors=True)
        shutil.copytree(folder / "good", folder / "struck")
        file = folder / "struck" / rng.choice(files).relative_to(folder / "good")
        value = rng.choice(values(proof))
        place = _rewritten(file, value, rng)
        outcome, said = read(kind, folder / "struck", None)
        tally[outcome] += 1
        if outcome == "traceback" or proof.exists():
            ran = "it ran" if proof.exists() else outcome
            wrong.append(f"{name}: {str(value)[:60]!r} at {place} of {file.name}: {ran} {said[:200]}")
            proof.unlink(missing_ok=True)
    return tally, wrong


def _rewritten(file: Path, value: Any, rng: random.Random) -> str:
    """As somebody would who writes such files: digests that are there are left out."""
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata()
        content = {key: _parsed(text) for key, text in metadata.items() if key not in (DIGESTS, METADATA_DIGEST)}
        where = rng.choice([place for place in places(content) if place])
        said = {
            key: part if isinstance(part, str) else json.dumps(part) for key, part in put(content, where, value).items()
        }
        save_file(tensors, file, {key: text.encode("utf-8", "replace").decode() for key, text in said.items()})
    elif file.suffix in (".ckpt", ".pt"):
        content = torch.load(file, weights_only=True)
        said = "metadata" if file.suffix == ".ckpt" else "args"
        where = rng.choice(list(places(content[said])))
        torch.save({**content, said: put(content[said], where, value)}, file)
    else:  # JSON is YAML too
        text = file.read_text()
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        if isinstance(content, dict):
            content.pop("seal", None)
        where = rng.choice(list(places(content)))
        file.write_text(json.dumps(put(content, where, value)))
    return ".".join(map(str, where)) or "the whole"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
