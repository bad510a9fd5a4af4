"""The solver package with somebody else's network: the page about it runs, and needs torch alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your_network.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
FRAMEWORK = ["lightning", "hydra", "omegaconf", "wandb", "torchmetrics", "einops", "data", "dit.model", "dit.training"]


def run(code, cwd):
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("absent", [False, True], ids=["with diffusers", "a bare function alone"])
def test_the_page_runs_without_the_framework(absent, tmp_path):
    """Modules of the framework cannot be imported at all while it runs; without diffusers, all other blocks do."""
    blocks = [block for block in BLOCKS if not (absent and "diffusers" in block)]
    assert len(blocks) == len(BLOCKS) - absent >= 4
    forbidden = [*FRAMEWORK, *(["diffusers", "transformers", "numpy.testing"] if absent else [])]
    code = "\n".join(
        [
            "import sys",
            f"sys.path.insert(0, {str(ROOT)!r})",
            f"sys.modules.update(dict.fromkeys({forbidden!r}))",  # None: importing raises
            *blocks,
            f"assert not [m for m in {forbidden!r} if sys.modules[m]]",
        ]
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "37 evaluations, 37.0 network rows an image" in done.stdout


@pytest.mark.slow
def test_the_wheel_works_where_torch_is_all_there_is(tmp_path):
    """Built and installed without its dependencies into an empty folder; torch is found, the framework is not."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        str(ROOT),
    ]
    subprocess.run(pip, check=True)
    assert not (tmp_path / "site" / "data").exists()
    forbidden = [*FRAMEWORK, "diffusers", "torchdiffeq", "torchvision"]
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
sys.modules.update(dict.fromkeys({forbidden!r}))
from dit.solvers import sample, RK4, CFG, TNR
import dit.solvers
assert dit.solvers.__file__.startswith({str(tmp_path)!r})
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
