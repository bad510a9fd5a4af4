"""A run that was interrupted goes on: which checkpoint it trusts, what it refuses, and that nothing is lost."""

import errno
import os
import resource
from contextlib import suppress

import pytest
import torch

from dit.checkpoint import check_sums, read
from dit.checkpoint.load import unpickled
from dit.training import RenamedCheckpointIO, SaveCheckpoint
from tests.training.tiny import digits, module, trainer


def fit(folder, steps, resume=None, every=2, callbacks=(), settings=None, **changes):
    data = digits(16, mirror=True)
    model = module(data, **changes)
    save = SaveCheckpoint(str(folder), every_n_steps=every)
    run = trainer(folder, steps, [*callbacks, save], **(settings or {}))
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, run


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)


def test_no_flipped_byte_changes_what_is_read(tmp_path):
    """Of every ninth byte of a file: reading it refuses, or gives what was written. torch alone gives other numbers."""
    file, contents = (
        tmp_path / "a.ckpt",
        {"a": torch.arange(40.0), "b": [torch.ones(3), 1.5, "text"]},
    )
    RenamedCheckpointIO().save_checkpoint(contents, file)
    whole, refused, silent = file.read_bytes(), 0, 0
    for place in range(3, len(whole), 9):
        flip(file, place)
        try:
            again = unpickled(file, "resume")
        except ValueError:
            refused += 1
        else:
            assert torch.equal(again["a"], contents["a"])
            assert torch.equal(again["b"][0], contents["b"][0])
            assert again["b"][1:] == contents["b"][1:]
        with suppress(Exception):
            silent += not torch.equal(torch.load(file, weights_only=True)["a"], contents["a"])
        file.write_bytes(whole)
    assert refused > 17  # the bytes of the first tensor alone
    assert silent >= 17


def test_a_flipped_weight_is_found(tmp_path):
    fit(tmp_path, 1)
    file = tmp_path / "last.ckpt"
    check_sums(file, "resume")
    flip(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"checkpoint=.*last\.ckpt is damaged: .* is not what was written"):
        read(file)
    with pytest.raises(ValueError, match=r"resume=.*last\.ckpt is damaged"):
        fit(tmp_path, 3, resume=file)


def test_the_checkpoint_before_is_kept_and_what_killed_runs_left_is_removed(tmp_path):
    tmp_path.joinpath(".last.ckpt.77.tmp").write_bytes(b"half")
    fit(tmp_path, 5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert [read(tmp_path / name)["global_step"] for name in ("last.ckpt", "previous.ckpt")] == [5, 4]
    fit(tmp_path, 7, resume=tmp_path / "last.ckpt", every=100)
    assert [read(tmp_path / name)["global_step"] for name in ("last.ckpt", "previous.ckpt")] == [7, 5]


def test_a_damaged_file_never_takes_the_place_of_a_good_one(tmp_path):
    fit(tmp_path, 5)
    (tmp_path / "last.ckpt").write_bytes(b"torn")
    fit(tmp_path, 6, resume=tmp_path / "previous.ckpt", every=100)
    assert [read(tmp_path / name)["global_step"] for name in ("last.ckpt", "previous.ckpt")] == [6, 4]


@pytest.fixture
def small_disk():
    """Files of this process may grow to 10 kB, as if the disk were full then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_fills_up_stops_with_a_sentence_and_loses_nothing(tmp_path, small_disk):
    fit(tmp_path, 2)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    small_disk()
    message = rf"cannot write the checkpoint .*last\.ckpt: {os.strerror(errno.EFBIG)}; earlier ones are kept"
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, 4, resume=tmp_path / "last.ckpt")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made_stops_with_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot write the checkpoint .*last\.ckpt: Not a directory"):
        fit(tmp_path / "file" / "folder", 2)
