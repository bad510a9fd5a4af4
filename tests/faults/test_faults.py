"""The campaign notices what it is there for. It runs by itself: `make faults`."""

import pytest
import torch

from tests.checkpoint.ours import METADATA
from tests.faults import runs
from tests.faults.ends import difference, end_of
from tests.faults.phases import FOLDED, MOMENTS
from tests.faults.runs import Failure, Run


@pytest.fixture
def folder(tmp_path):
    """What a run leaves, by hand."""
    for part in ("checkpoints", "csv/version_0", "previews"):
        (tmp_path / part).mkdir(parents=True)
    contents = {
        "state_dict": {"w": torch.zeros(3)},
        "ema": {"steps": 4, "averages": {"0.9": {}}},
        "metadata": METADATA.to_dict(),
        "lr_schedulers": [{"lr": 0.1}],
    }
    torch.save(contents, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "csv" / "version_0" / "metrics.csv").write_text("step,loss,images_per_second\n0,1.5,7\n1,1.25,8\n")
    (tmp_path / "previews" / "step_1.png").write_bytes(b"picture")
    return tmp_path


def change(folder, **parts):
    file = folder / "checkpoints" / "last.ckpt"
    torch.save(torch.load(file, weights_only=True) | parts, file)


@pytest.mark.parametrize(
    ("disturb", "found"),
    [
        (lambda f: change(f, state_dict={"w": torch.tensor([0.0, 1e-45, 0.0])}), "1 of 6 things differ: state_dict/w"),
        (lambda f: change(f, ema={"steps": 5, "averages": {"0.9": {}}}), "1 of 6 things differ: ema/steps 5 and not 4"),
        (lambda f: change(f, state_dict={"w": torch.zeros(3, dtype=torch.float64)}), "1 of 6 things differ"),
        (lambda f: (f / "csv/version_0/metrics.csv").write_text("step,loss\n0,1.5\n"), "log/1 None and not"),
        (lambda f: (f / "previews/step_1.png").write_bytes(b"pict"), "previews/step_1.png"),
        (lambda f: (f / "checkpoints/.last.ckpt.7.tmp").touch(), "checkpoints/.last.ckpt.7.tmp"),
    ],
)
def test_what_differs_is_named(folder, disturb, found):
    undisturbed = end_of(folder)
    (folder / "previews" / "step_0.png").touch()  # of the step it went on from
    (folder / "csv/version_0/metrics.csv").write_text("step,loss,images_per_second\n0,1.5,1\n1,1.25,2\n")
    change(folder, metadata={**METADATA.to_dict(), "config": {"trainer": {"devices": 2}}})
    assert difference(undisturbed, folder) is None
    disturb(folder)
    assert found in difference(undisturbed, folder)


def test_a_hang_is_a_failure_that_names_the_phase_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LIMIT", 0.2)
    run = Run(tmp_path / "run", forked=False)
    with pytest.raises(Failure, match=r"hung for 0 s: going on \(starting; it said last: nothing\)"):
        run.wait("going on")
    assert not runs.alive(run.pid)


@pytest.mark.parametrize("place", [*filter(None, FOLDED.values()), *(moment[:2] for moment in MOMENTS.values())])
def test_places_to_watch_and_to_strike_are_there(place):
    assert callable(getattr(*place))
