"""Sampling for scores: shared out between processes, gone on with after a kill, the same images whatever happened."""

import multiprocessing
import os
import re
import signal
import time
from collections import Counter

import pytest
import torch
from rich.console import Console

from dit.diffusion import LinearFlow
from dit.metrics import generation
from dit.metrics.generation import Generation, labels_of
from dit.solvers import Euler, Sampler
from tests.exact import Gaussian
from tests.metrics.test_cache_damage import damages


def decode(x0):
    return ((x0 + 3) * 40).clamp(0, 255).to(torch.uint8)


def see(images):
    return {"pooled": images.float().flatten(1), "first": images[:, :1, 0, 0].clone()}


def made(slow=0.0, **changes):
    def seen(images):
        time.sleep(slow)
        return see(images)

    sampler = Sampler(steps=3, solver=Euler(), batch_size=4)
    options = {"labels": "balanced", "num_classes": 3, "shape": (1, 2, 2), "decode": decode, "see": seen}
    return Generation(Gaussian(LinearFlow()), sampler, **{**options, "identity": {"a": 1}, **changes})


def test_images_are_those_of_the_sampler(tmp_path):
    result = made().run(10, tmp_path)
    sampler = Sampler(steps=3, solver=Euler(), batch_size=4)
    expected = torch.cat([decode(b.x0) for b in sampler.batches(Gaussian(LinearFlow()), None, (1, 2, 2), 10)])
    assert torch.equal(result.seen["pooled"], expected.float().flatten(1))
    assert result.labels == [i % 3 for i in range(10)]
    assert (result.evaluations, result.rows) == (3, 3.0)
    assert result.seconds > 0


def work(folder, rank, size, slow):
    made(slow).run(22, folder, rank, size)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_batches_and_change_nothing(tmp_path, size):
    alone = made().run(22, tmp_path / "alone")
    others = [
        multiprocessing.Process(target=work, args=(tmp_path / "shared", rank, size, 0.05)) for rank in range(1, size)
    ]
    for process in others:
        process.start()
    together = made().run(22, tmp_path / "shared", 0, size)
    for process in others:
        process.join()
        assert process.exitcode == 0
    assert together.seen.keys() == alone.seen.keys()
    assert all(torch.equal(together.seen[name], alone.seen[name]) for name in alone.seen)


def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path):
    alone = made().run(22, tmp_path / "alone")
    process = multiprocessing.Process(target=work, args=(tmp_path / "killed", 0, 2, 0.2))
    process.start()
    folder = made().folder(tmp_path / "killed")
    while not list(folder.glob("images_*")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = {file: file.stat().st_mtime_ns for file in folder.glob("images_*")}
    assert 0 < len(before) < 6
    again = made().run(22, tmp_path / "killed")
    assert {file: file.stat().st_mtime_ns for file in before} == before  # not made again
    assert all(torch.equal(again.seen[name], alone.seen[name]) for name in alone.seen)
    assert len(again.seen["pooled"]) == 22


def test_of_some_entries_only_the_first_images_are_kept(tmp_path):
    few, all_of_them = made(shown={"first": 6}).run(10, tmp_path / "a"), made().run(10, tmp_path / "b")
    assert torch.equal(few.seen["first"], all_of_them.seen["first"][:6])
    assert torch.equal(few.seen["pooled"], all_of_them.seen["pooled"])


def test_more_images_go_on_from_fewer_and_other_settings_elsewhere(tmp_path):
    few, many = made().run(8, tmp_path), made().run(11, tmp_path)
    assert torch.equal(many.seen["pooled"][:8], few.seen["pooled"])
    assert len(list(made().folder(tmp_path).iterdir())) == 3
    assert made(identity={"a": 2}).folder(tmp_path) != made().folder(tmp_path)


def test_a_damaged_file_is_named_and_made_again(tmp_path, caplog):
    before = made().run(8, tmp_path)
    file = sorted(made().folder(tmp_path).iterdir())[1]
    for damaged in damages(file.read_bytes(), 20):
        caplog.clear()
        file.write_bytes(damaged)
        again = made().run(8, tmp_path)
        assert all(torch.equal(again.seen[name], before.seen[name]) for name in before.seen)
        (record,) = caplog.records
        assert re.search(r"images_0000004-0000007\.safetensors .*; it is made again$", record.message)


def test_labels_by_name():
    assert labels_of("balanced", range(5), 2, 0) == [0, 1, 0, 1, 0]
    assert labels_of("random", range(5), 0, 0) is None
    drawn = labels_of("random", range(9000), 3, 7)
    assert drawn[100:200] == labels_of("random", range(100, 200), 3, 7)  # each by its own number
    assert drawn != labels_of("random", range(9000), 3, 8)
    assert all(abs(count - 3000) < 4 * (9000 * 2 / 9) ** 0.5 for count in Counter(drawn).values())
    with pytest.raises(ValueError, match="labels must be balanced or random, got 'even'"):
        labels_of("even", range(2), 2, 0)


def test_progress_is_told_with_the_time_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generation, "_LINES_EVERY", 0.0)
    monkeypatch.setattr(generation, "Console", lambda **_: Console(width=100, force_terminal=False))
    made().run(8, tmp_path)
    made().run(12, tmp_path)
    said = capsys.readouterr().out
    assert "4 of 8 images, 0:00:00 left" in said
    assert "8 of 12 images are there already" in said
    assert "12 of 12 images, 0:00:00 left" in said
