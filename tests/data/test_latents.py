"""The latent cache: what it holds, who may make it, what it refuses, and how it is verified."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data import Folder
from data.latents import encode as making
from data.latents.manifest import Manifest, write_shard
from data.latents.verify import verify
from data.order import Pick
from dit.launch import this_group
from tests.data.caches import CPU, PICTURES, autoencoder, cache, contents, latents, pictures, save_vae
from tests.data.test_data import tree  # noqa: F401
from tests.training.processes import CONTEXT

ROOT = Path(__file__).parents[2]


def test_it_holds_the_moments_of_every_picture_and_of_its_mirror_image(made, vae):
    data, encoder = pictures(), autoencoder(vae)
    split = latents(made).train
    records = np.stack([[split._record(Pick(i, mirrored)) for mirrored in (False, True)] for i in range(50)])
    whole = data.train.pixels.float() / 127.5 - 1
    with torch.no_grad():
        for side, shown in enumerate((whole, whole.flip(-1))):
            there = encoder.network.encode(shown).latent_dist
            expected = torch.cat([there.mean, there.logvar], dim=1)
            assert (torch.from_numpy(records[:, side]) - expected).abs().max() < 1e-5
    # An autoencoder is no mirror: its latents of a mirrored picture are not the mirrored latents.
    assert np.abs(records[:, 1] - records[:, 0][..., ::-1]).max() > 0.01
    assert torch.equal(split.labels, data.train.labels)


def test_any_number_of_processes_makes_the_same_files(made, vae, tmp_path):
    source = {"_target_": "data.Synthetic", **PICTURES}
    assert cache(tmp_path / "half", vae, source=source, ranks=[(1, 2)]) is None  # the other half is missing
    with pytest.raises(ValueError, match=r"half is an unfinished cache, 2 of 5 shards; the command that began it"):
        Manifest.read(tmp_path / "half")
    assert cache(tmp_path / "half", vae, source=source, ranks=[(2, 3), (0, 3), (1, 3)]) is not None
    assert contents(tmp_path / "half") == contents(made)


def test_a_finished_cache_is_left_alone_and_a_lost_shard_is_made_again(made, vae, tmp_path):
    source = {"_target_": "data.Synthetic", **PICTURES}
    cache(tmp_path / "cache", vae, source=source)
    before = contents(tmp_path / "cache")
    times = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert cache(tmp_path / "cache", vae, source=source) == Manifest.read(made)
    lost = next((tmp_path / "cache").glob("train-00001.*"))
    lost.unlink()
    with pytest.raises(ValueError, match=r"the shard train-00001.* is missing; .* it makes only what is missing"):
        latents(tmp_path / "cache")
    cache(tmp_path / "cache", vae, source=source)
    assert contents(tmp_path / "cache") == before
    changed = {file.name for file in (tmp_path / "cache").iterdir() if file.stat().st_mtime_ns != times[file.name]}
    assert changed == {lost.name}

    values, name = np.load(lost), lost.name
    values[0, 0, 0, 0, 0] += 1e-3  # as if another machine had made it, to the last bit
    lost.unlink()
    write_shard(tmp_path / "cache", next(Manifest.read(made).plan.shards())._replace(number=1), values)
    cache(tmp_path / "cache", vae, source=source)
    again = Manifest.read(tmp_path / "cache")
    assert again.shards[1]["file"] != name
    assert latents(tmp_path / "cache").train.images([Pick(16)]).isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "float16"}, r"dtype is float32 there and float16 here$"),
        ({"shard_size": 8}, r"shard_size is 16 there and 8 here$"),
        (
            {"data": {"image_size": 32}},
            r"picture_size is 16 there and 32 here; latent_size is 8 there and 16 ",
        ),
        ({"data": {"pictures": 60}}, r"counts is \{'train': 50, .* here; labels is .* pictures is "),
        (
            {"data": {"classes": ["0", "1"], "num_classes": 2}},
            r"class_names is \['0', '1', '2', '3'\] there and \['0'",
        ),
        ({"vae": 1}, r"vae_hash is [0-9a-f]{32} there and [0-9a-f]{32} here$"),
    ],
)
def test_a_cache_of_anything_else_is_not_added_to(made, vae, tmp_path, change, said):
    arguments = {**change, "data": pictures(**change["data"])} if "data" in change else dict(change)
    arguments["vae"] = save_vae(tmp_path / "other", change["vae"]) if "vae" in change else vae
    before = contents(made)
    with pytest.raises(ValueError, match=r"out=.*cache holds another cache: .*" + said):
        cache(made, **arguments)
    assert contents(made) == before


def test_other_crops_and_other_pictures_of_the_same_number_are_noticed(tree, vae, tmp_path):  # noqa: F811
    def folder(**changes):
        settings = {"image_size": 16, "channels": 3, "num_classes": 3, "batch_size": 4}
        data = Folder(root=str(tree), **{**settings, **changes})
        data.setup()
        return data

    cache(tmp_path / "out", vae, folder())
    with pytest.raises(ValueError, match="crop is center there and area here; pictures is"):
        cache(tmp_path / "out", vae, folder(crop="area"))
    with pytest.raises(ValueError, match=r"data\.crop must be center or area: a cache holds one square of each"):
        cache(tmp_path / "out", vae, folder(crop="random_resized"))
    first = tree / "train" / "ant" / "0.jpg"
    first.write_bytes((tree / "train" / "bee" / "3.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"holds another cache: pictures is \S+ '\w+', .* there and"):
        cache(tmp_path / "out", vae, folder())


def test_what_cannot_be_cached_is_refused_before_anything_is_written(vae, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"dtype must be one of float16, float32, got 'int8'"):
        cache(out, vae, dtype="int8")
    with pytest.raises(ValueError, match=r"data\.channels=1, but the autoencoder encodes pictures of 3 channels"):
        cache(out, vae, pictures(channels=1))
    with pytest.raises(ValueError, match=r"data\.image_size must be a multiple of 2, got 15"):
        cache(out, vae, pictures(image_size=15))
    assert not out.exists()
    monkeypatch.setattr(making.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(ValueError, match=r"has 0\.0 GB of free space, and 0\.0 GB are needed"):
        cache(out, vae)
    monkeypatch.undo()
    (out / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out=.* must be a new folder or that of a cache, but holds letter\.txt"):
        cache(out, vae)
    with pytest.raises(ValueError, match=r"out=.*letter\.txt must be a folder to write to: "):
        cache(out / "letter.txt", vae)
    assert contents(out) == {"letter.txt": b"mine"}


def test_latents_that_overflow_are_named(vae, tmp_path, monkeypatch):
    encoder = autoencoder(vae)
    large = type(encoder).encode

    def encode_large(self, pixels):
        return large(self, pixels) * torch.where(pixels[:, :1, :1, :1] == pictures().train.read(21)[0, 0, 0], 1e6, 1.0)

    monkeypatch.setattr(type(encoder), "encode", encode_large)
    with pytest.raises(ValueError, match=r"the latents of picture \d+ of the train split are not finite in float16"):
        cache(tmp_path / "out", vae, dtype="float16")


def test_a_full_disk_stops_with_a_sentence_and_leaves_what_was_written(vae, tmp_path, monkeypatch):
    written, real = [], os.fsync

    def fsync(number):
        written.append(number)
        if len(written) == 9:  # 2 files of labels, the plan and a shard, each with its folder
            raise OSError(28, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ValueError, match=r"train-00001.*\.npy cannot be written: No space left on device$"):
        cache(tmp_path / "out", vae)
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".*"))
    assert cache(tmp_path / "out", vae) is not None


def test_what_is_no_cache_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match=r"data\.root=.* must be a cache made by python -m data\.latents: no manifest"):
        Manifest.read(tmp_path)
    content = json.loads((made / "manifest.json").read_text())
    content["plan"]["schema"] = 99
    del content["seal"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"this cache has schema 99, this version reads 1; make it anew"):
        Manifest.read(tmp_path)
    for text in ("{", "[]", "{}", '{"plan": 3, "shards": [], "normalisations": {}}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json is damaged or "):
            Manifest.read(tmp_path)


def test_training_refuses_labels_that_are_not_those_of_the_cache(made, tmp_path):
    file = copy_of(made, tmp_path) / "train-labels.npy"
    labels = np.load(file)
    np.save(file, np.roll(labels, 1))
    with pytest.raises(ValueError, match=r"train-labels\.npy is damaged: its checksum is another; the cache must be"):
        latents(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"train-labels\.npy is missing; the cache must be made anew, or"):
        latents(tmp_path)


def copy_of(made, tmp_path):
    for name, content in contents(made).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_verify_draws_pictures_beside_what_their_latents_become(made, vae, tmp_path):
    root = copy_of(made, tmp_path)
    said, picture = verify(root, pictures(), autoencoder(vae), 5, CPU)
    assert said.startswith(
        "5 shards of 55 pictures and their mirror images: all there, checksums match, all finite; 10"
    )
    from PIL import Image

    assert Image.open(picture).size == (5 * 98 + 2, 4 * 98 + 2)  # 16 pixels six times as large
    picture.unlink()
    picture.mkdir()
    with pytest.raises(ValueError, match=r"all is right, but .*verify\.png cannot be written: Is a directory"):
        verify(root, pictures(), autoencoder(vae), 5, CPU)


def test_a_cache_knows_where_its_pictures_are_also_when_told_by_a_relative_path(
    tree,  # noqa: F811
    vae,
    tmp_path,
    monkeypatch,
):
    source = ["data=folder", f"data.root={os.path.relpath(tree, ROOT)}", "data.image_size=8"]
    monkeypatch.setattr(sys, "argv", ["data.latents", *source, f"vae={vae}", f"out={tmp_path / 'out'}", "device=cpu"])
    monkeypatch.chdir(ROOT)
    runpy.run_module("data.latents", run_name="__main__", alter_sys=True)
    assert Manifest.read(tmp_path / "out").plan.source["root"] == str(tree)


@pytest.mark.parametrize("damage", ["bit", "short", "gone", "labels"])
def test_verify_names_the_file_that_is_damaged(made, vae, tmp_path, damage):
    root = copy_of(made, tmp_path)
    name = "validation-labels.npy" if damage == "labels" else next(root.glob("train-00002.*")).name
    content = bytearray((root / name).read_bytes())
    content[-3] ^= 1
    if damage == "gone":
        (root / name).unlink()
    else:
        (root / name).write_bytes(content[:-1] if damage == "short" else content)
    state = {"gone": "is missing; delete it and make", "labels": "is damaged: its"}.get(damage, "is damaged: ")
    with pytest.raises(ValueError, match=rf"{name} {state}"):
        verify(root, pictures(), autoencoder(vae), 2, CPU)


def test_verify_refuses_other_pictures_and_another_autoencoder(made, tmp_path):
    other = save_vae(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"verify=.* is a cache of something else: vae_hash is .*; counts is"):
        verify(made, pictures(pictures=51), autoencoder(other), 2, CPU)


@pytest.mark.parametrize("started", ["batch script", "srun"])
def test_slurm_tasks_share_the_shards_if_srun_started_them(vae, tmp_path, monkeypatch, capsys, started):
    """In a batch script with --ntasks=4 there is one process until somebody calls srun."""
    step = {"STEP_NUM_TASKS": "4", "STEP_NUM_NODES": "1", "STEP_NODELIST": "n1", "STEP_ID": "0", "PROCID": "1"}
    task = {"NTASKS": "4", "PROCID": "0", "JOB_ID": "7"} | (step if started == "srun" else {})
    for key, value in task.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    this_group.cache_clear()
    pictures = ["data=synthetic", "data.pictures=20", "data.image_size=8", "shard_size=5"]
    monkeypatch.setattr(sys, "argv", ["data.latents", *pictures, f"vae={vae}", f"out={tmp_path}", "device=cpu"])
    monkeypatch.chdir(ROOT)
    runpy.run_module("data.latents", run_name="__main__", alter_sys=True)
    this_group.cache_clear()
    said, shards = capsys.readouterr().out, len(list(tmp_path.glob("*-*.*.npy")))
    if started == "srun":
        assert "process 2 of 4 has made its shards; the last one to do so completes " in said
        assert shards == 2  # of 6, every fourth from the second
    else:
        assert "6 shards, pictures: 20 for train and 10 for validation" in said
        assert shards == 6


def test_the_same_command_begun_twice_makes_one_cache(made, vae, tmp_path, monkeypatch):
    """The second finishes, and tidies up what killed processes would have left, while the first writes a shard."""
    real, calls = os.fsync, []
    source = {"_target_": "data.Synthetic", **PICTURES}

    def fsync(number):
        real(number)
        calls.append(number)
        if len(calls) == 13:  # 2 files of labels, the plan and 3 shards, each with its folder, and this one
            assert cache(tmp_path, vae, source=source) is not None

    monkeypatch.setattr(os, "fsync", fsync)
    assert cache(tmp_path, vae, source=source) is not None
    assert len(calls) > 13
    assert contents(tmp_path) == contents(made)


def command(rank, world_size, *arguments):
    """The command as srun starts it."""
    with pytest.MonkeyPatch.context() as patch:
        here = {"STEP_NUM_TASKS": world_size, "STEP_NUM_NODES": 1, "STEP_NODELIST": "n1", "STEP_ID": 0, "JOB_ID": 7}
        for key, value in {**here, "PROCID": rank}.items():
            patch.setenv(f"SLURM_{key}", str(value))
        this_group.cache_clear()
        patch.setattr(sys, "argv", ["data.latents", *arguments])
        patch.chdir(ROOT)
        runpy.run_module("data.latents", run_name="__main__", alter_sys=True)
    this_group.cache_clear()


def killed_while_writing(rank, calls, arguments):
    """Before the last of so many calls that bring a file or its folder onto the disk is done."""
    torch.set_num_threads(1)
    left, real = iter(range(calls - 1, -1, -1)), os.fsync
    os.fsync = lambda number: real(number) if next(left) else os.kill(os.getpid(), signal.SIGKILL)
    command(rank, 2, *arguments)


def test_killed_processes_begun_again_end_with_every_picture_once(vae, tmp_path):
    """The first dies in its third shard, the second in its second."""
    small = ["data=synthetic", "data.pictures=50", "data.image_size=16", "shard_size=8", "batch_size=4", "device=cpu"]
    to = [[*small, f"vae={vae}", f"out={tmp_path / name}"] for name in ("one", "two")]
    for rank, calls in ((0, 6 + 2 * 2 + 1), (1, 2 + 1)):  # before the shards, labels and the plan, if there are none
        process = CONTEXT.Process(target=killed_while_writing, args=(rank, calls, to[1]))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    names = [file.name for file in (tmp_path / "two").iterdir()]
    assert sum(name.startswith(".") and name.endswith(".tmp") for name in names) == 2  # torn
    made = sorted(file.name[:11] for file in (tmp_path / "two").glob("*-*.*.npy"))
    assert made == ["train-00000", "train-00001", "train-00002"]  # the second of them by the second process
    assert "manifest.json" not in names
    for rank in (1, 0):
        command(rank, 2, *to[1])
    command(0, 1, *to[0])
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    counted = [shard["file"].split(".")[0] for shard in Manifest.read(tmp_path / "two").shards]
    assert len(counted) == len(set(counted)) == 9  # 7 of 50 pictures, 2 of 10


COMMAND = ["data=synthetic", "data.pictures=3000", "data.image_size=32", "shard_size=128", "batch_size=16"]


def run(*arguments, launcher=("-m",)):
    command = [sys.executable, *launcher, "data.latents", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_two_processes_killed_in_the_middle_and_begun_again_end_with_every_picture_once(vae, tmp_path):
    command = [*COMMAND, f"vae={vae}"]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    killed = run(*command, f"out={tmp_path}/two", launcher=torchrun)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "two").glob("train-*.*.npy"))) < 4:
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(killed.pid)], capture_output=True, text=True).stdout.split()
    for process in [*map(int, children), killed.pid]:
        os.kill(process, signal.SIGKILL)
    killed.wait()
    made = len(list((tmp_path / "two").glob("*-*.*.npy")))
    assert 4 <= made < 27
    assert not (tmp_path / "two" / "manifest.json").exists()
    (tmp_path / "two" / ".train-00000.0123456789abcdef.npy.1.tmp").write_bytes(
        b"torn"
    )  # as a kill within a write leaves it

    again = run(*command, f"out={tmp_path}/two", launcher=torchrun)
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert "27 shards, pictures: 3,000 for train and 300 for validation, each with its mirror image" in said
    one = run(*command, f"out={tmp_path}/one")
    assert one.wait() == 0, one.communicate()[0]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    check = run(f"verify={tmp_path}/two")
    said = check.communicate()[0]
    assert check.returncode == 0, said
    assert "27 shards of 3,300 pictures and their mirror images: all there, checksums match, all finite" in said
