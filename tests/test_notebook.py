"""The library alone: the page on notebooks runs where nothing of the framework can be imported."""

import re
import subprocess
import sys
from pathlib import Path

import torch

from dit.checkpoint import load
from dit.diffusion import LinearFlow
from tests.checkpoint.ours import checkpoint

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "notebook.md").read_text(), re.DOTALL)
ABSENT = ["lightning", "pytorch_lightning", "torchmetrics", "hydra", "omegaconf", "wandb", "tensorboard", "torchvision"]
ABSENT += ["diffusers", "sklearn", "scipy", "matplotlib", "rich", "yaml", "data", "dit.training", "dit.metrics"]


def test_the_page_makes_pictures_without_the_framework(tmp_path):
    assert len([line for line in BLOCKS[0].splitlines() if line]) == 4
    (tmp_path / "outputs/demo/checkpoints").mkdir(parents=True)
    digits = [str(digit) for digit in range(10)]
    file = checkpoint(
        tmp_path / "outputs/demo/checkpoints/last.ckpt", LinearFlow(), "velocity", digits, channels=1, patch_size=4
    )
    code = [
        "import sys",
        f"sys.path.insert(0, {str(ROOT)!r})",
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))",  # None: importing raises
        *BLOCKS,
        "print(images.dtype, tuple(images.shape), tuple(sheet.shape))",
        "print(model)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"torch.uint8 (16, 1, 8, 8) (16, 64, 1)\n{load(file)}\n"


def test_a_loaded_checkpoint_is_shown_in_five_lines(tmp_path):
    shown = repr(load(checkpoint(tmp_path / "last.ckpt", names=["hen", "new\nline \x1b[2J", *map(str, range(200))])))
    network, path, samples, weights, codec = shown.split("\n")
    assert re.fullmatch(r"dit: [\d,]+ parameters, float32, cpu", network)
    assert path == "predicts eps on DiscreteVP.linear(steps=1000, beta_start=0.0001, beta_end=0.02)"
    assert samples == r"samples (4, 8, 8), 202 classes: hen, new\nline \x1b[2J, 0, 1, 2, 3, 4, 5, 6, 7, ..."
    assert weights == "weights ema 0.999, step 1,234"
    assert codec == "codec Pixels(mean=0.5, std=0.5)"


def test_long_and_missing_things_are_shown_too(tmp_path):
    file = checkpoint(tmp_path / "last.ckpt", names=[])
    contents = torch.load(file)
    contents["metadata"]["codec"] = {"name": "Latents", "scale": [0.5] * 1000}
    contents["metadata"]["path"] = {"name": "DiscreteVP", "betas": [0.01] * 1000}
    torch.save(contents, file)
    lines = repr(load(file, "raw")).split("\n")
    assert lines[2:4] == ["samples (4, 8, 8), no classes", "weights raw, step 1,234"]
    assert [len(line) for line in (lines[1], lines[4])] == [123, 123]
