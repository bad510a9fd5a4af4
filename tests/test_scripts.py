"""The three scripts as a user runs them: what they write, what they say, and one sentence for each mistake."""

import io
import json
import os
import re
import runpy
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests.as_found import as_found
from tests.checkpoint.foreign import saved, weights

ROOT = Path(__file__).parent.parent


def run(script, *arguments, **environment):
    """The script's output, run in this process, which saves its start-up; asserts success."""
    said = io.StringIO()
    with as_found(), pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.chdir(ROOT)
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stop:
            if stop.code:
                raise AssertionError(said.getvalue()) from stop
    return said.getvalue()


def run_apart(script, *arguments):
    """The script's output in a process of its own, as a user starts it; asserts success."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def refused(monkeypatch, capfd):
    """Runs a script in this process, which saves its start-up, and returns what it said when it refused."""

    def run_here(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        text = "".join(capfd.readouterr())
        assert stop.value.code not in (0, None), text
        assert "Traceback" not in text, text
        return text

    return run_here


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of a few steps with everything in it."""
    folder = tmp_path_factory.mktemp("run")
    text = run_apart("train.py", "experiment=digits", "debug=fast", f"hydra.run.dir={folder}")
    return folder, text


def test_training_writes_its_run_folder_and_says_how_it_goes(trained):
    folder, text = trained
    assert "step 4/4" in text
    assert "images/s" in text
    assert "left" in text
    assert "validation loss" in text
    assert f"checkpoint: {folder}/checkpoints/last.ckpt" in text
    assert (folder / ".hydra" / "config.yaml").is_file()
    assert {f.name for f in (folder / "previews").iterdir()} == {f"step_000000{n}.png" for n in (0, 2, 4)}
    header = (folder / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    for column in ("train/loss", "val/loss", "val_raw/loss", "val/loss_log_snr+1", "images_seen", "images_per_second"):
        assert column in header.split(",")


def test_sampling_needs_nothing_but_the_checkpoint(trained, tmp_path):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    options = [f"checkpoint={checkpoint}", "classes=[3,7]", "per_class=2", "guidance.scale=2", "solver=heun", "steps=3"]
    run_apart("sample.py", *options, "seed=0", "format=npz", f"out={tmp_path}/a")
    with np.load(tmp_path / "a" / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (4, 8, 8, 1)
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [3, 3, 7, 7]
        images = arrays["arr_0"]
    protocol = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert protocol["guidance"] == {"name": "CFG", "scale": 2, "negative": None, "channels": None}
    assert (protocol["solver"], protocol["steps"], protocol["seed"]) == ({"name": "Heun", "clock": "rectified"}, 3, 0)
    assert (protocol["evaluations"], protocol["network_rows_per_image"]) == (5, 10)
    assert (protocol["labels"], protocol["class_names"][7]) == ([3, 3, 7, 7], "7")
    assert (protocol["weights"], protocol["checkpoint_step"]) == ("ema 0.999", 4)

    run("sample.py", *options, "seed=0", "format=png", "batch_size=1", f"out={tmp_path}/b")
    names = ["00000_3.png", "00001_3.png", "00002_7.png", "00003_7.png"]
    for name, image in zip(names, images, strict=True):
        with Image.open(tmp_path / "b" / name) as picture:
            # Another batch size may round a value on the edge between two bytes the other way.
            assert np.abs(np.asarray(picture).astype(int) - image[..., 0]).max() <= 1
    with Image.open(tmp_path / "b" / "grid.png") as grid:
        assert min(grid.size) >= 96


def test_all_classes_when_none_are_given(trained, tmp_path):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    run("sample.py", f"checkpoint={checkpoint}", "per_class=1", "steps=1", "solver=euler", f"out={tmp_path}")
    assert len(list(tmp_path.glob("0*.png"))) == 10


def test_wandb_logs_config_scalars_and_previews(tmp_path):
    options = ["debug=fast", "logger=wandb", f"hydra.run.dir={tmp_path}"]
    run("train.py", *options, WANDB_MODE="offline", WANDB_SILENT="true")
    (record_file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert list(record_file.parent.glob("files/media/images/preview_*.png"))
    # The record file keeps keys in clear text; wandb's own process writes it.
    content, end = b"", time.monotonic() + 30
    while b"preview" not in content and time.monotonic() < end:
        content = record_file.read_bytes()
    for logged in (b"train/loss", b"val/loss_log_snr", b"images_seen", b"dropout", b"beta", b"preview"):
        assert logged in content, logged
    name = (tmp_path / "wandb_id").read_text()
    assert record_file.name == f"run-{name}.wandb"
    more = ["trainer.max_steps=5", f"resume={tmp_path}/checkpoints/last.ckpt"]
    run("train.py", *options, *more, WANDB_MODE="offline")
    assert [file.name for file in tmp_path.glob("wandb/offline-run-*/run-*.wandb")] == [record_file.name] * 2


def test_tensorboard_takes_previews(tmp_path):
    run("train.py", "debug=fast", "logger=tensorboard", f"hydra.run.dir={tmp_path}")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = tmp_path.rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events)).Reload()
    assert accumulator.Tags()["images"] == ["preview"]
    assert "train/loss" in accumulator.Tags()["scalars"]


def test_training_goes_on_from_a_checkpoint(trained, tmp_path):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    text = run(
        "train.py", "experiment=digits", "debug=fast", "trainer.max_steps=6", f"resume={checkpoint}",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert "step 6/6" in text
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dropout.class=1.5"], "dropout.class must be a finite number from 0 to 1, got 1.5"),
        (["model.patch_size=3"], "model.patch_size must divide the image size 8, got 3"),
        (["model.num_heads=5"], "model.num_heads must divide hidden_size 96, got 5"),
        (["diffusion=spiral"], "Could not find 'diffusion/spiral'"),
        (["diffusion.kind=noise"], "diffusion.kind must be x0 or eps or v or velocity or score or edm, got 'noise'"),
        (["guidance.scale=x"], "guidance.scale must be a finite number or a function, got 'x'"),
        (["diffusion.kind=eps"], "predicts eps cannot start at t=1, where alpha is 0"),
        (["model.dropout=0.1"], "Key 'dropout' is not in struct"),
        (["+model.dropout=0.1"], "model.dropout is nothing that dit.model.DiT takes; it takes image_size, "),
        (["steps=0"], "steps must be a whole number from 1 to 1,000,000, got 0"),
        (["seed=x"], "seed must be a whole number of at least 0, got 'x'"),
        (["model.num_classes=9"], "model.num_classes must be 10 or 0, as the pictures are, got 9"),
        (["model.image_size=16"], "model.image_size must be 8, as the pictures are, got 16"),
        (["trainer.precision=16-true"], "bf16-mixed and 32-true are allowed"),
        (["compile=foo"], "compile must be null or one of"),
        (["diffusion=ddpm_linear", "diffusion.path.steps=100"], "validation.levels must lie on the path; -5 does not"),
        (["resume=nothing.ckpt"], "resume=nothing.ckpt does not exist"),
        (["data=folder"], "data.root"),
        (["data=folder", "data.root=nowhere"], "error: data.root=nowhere must be a folder with train/<class>/ inside"),
        (["ema.decays=[2]"], "ema.decays must be a list of one or more numbers in [0, 1), got [2]"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_in_training_gets_one_sentence(overrides, sentence, refused, tmp_path):
    text = refused("train.py", "debug=fast", *overrides, f"hydra.run.dir={tmp_path}")
    assert sentence in text
    assert not (tmp_path / "checkpoints").exists()


def test_a_broken_checkpoint_cannot_be_resumed(trained, refused, tmp_path):
    whole = (trained[0] / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    options = ["experiment=digits", "debug=fast", f"hydra.run.dir={tmp_path}/run"]
    for name, part in {"half": "truncated", "other": "of another kind"}.items():
        text = refused("train.py", *options, f"resume={tmp_path}/{name}.ckpt")
        assert f"resume={tmp_path}/{name}.ckpt" in text
        assert part in text
    text = refused("train.py", *options, f"resume={trained[0]}/checkpoints/last.ckpt")
    assert "trainer.max_steps=4 must exceed step 4" in text


@pytest.mark.parametrize(
    ("recipe", "solver"),
    [
        ("diffusion=edm times=log_normal_sigma loss=learned_uncertainty", "solver=heun grid=karras"),
        ("diffusion=ddpm_linear times=uniform loss=hybrid_vlb", "solver=ddpm solver.variance=learned grid=linspace"),
    ],
    ids=["edm2", "dit"],
)
def test_a_recipe_of_a_paper_trains_and_samples(recipe, solver, tmp_path):
    run("train.py", "experiment=digits", "debug=fast", *recipe.split(), f"hydra.run.dir={tmp_path}/run")
    checkpoint = f"checkpoint={tmp_path}/run/checkpoints/last.ckpt"
    run("sample.py", checkpoint, "per_class=1", "steps=2", *solver.split(), f"out={tmp_path}/images")
    assert len(list((tmp_path / "images").glob("0*.png"))) == 10


@pytest.mark.parametrize("override", ["model=dit_s", "model.norm=rmsnorm", "diffusion.kind=eps"])
def test_what_a_checkpoint_decides_cannot_be_asked_of_fine_tuning(override, trained, refused, tmp_path):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    text = refused(
        "train.py", "experiment=digits", f"finetune_from={checkpoint}", override, f"hydra.run.dir={tmp_path}"
    )
    assert f"error: {override} cannot be asked of a run with finetune_from: the checkpoint decides model and" in text


def test_fine_tuning_from_no_checkpoint_is_refused(refused, tmp_path):
    text = refused("train.py", "experiment=digits", f"finetune_from={tmp_path}/none", f"hydra.run.dir={tmp_path}/run")
    assert f"error: finetune_from={tmp_path}/none does not exist" in text


def test_the_cifar_recipe_runs(tmp_path):
    """experiment=cifar10 on a folder of real files, as the README says, cut to a few steps of a small batch."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.jpg")
    run(
        "train.py", "experiment=cifar10", "debug=fast", "data=folder", f"data.root={tmp_path}/data", "steps=1",
        "data.batch_size=2", "data.validation_images=2", "data.num_workers=0", "trainer.max_steps=2",
        "callbacks.preview.classes=1", "model.depth=2", f"hydra.run.dir={tmp_path}/run",
    )  # fmt: skip
    assert set(torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["ema"]["averages"]) == {
        "0.9999",
        "0.9996",
    }


def test_preview_and_sample_draw_the_same_sheet(trained, tmp_path):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    run("sample.py", f"checkpoint={checkpoint}", "per_class=1", "steps=2", "guidance.scale=1.5", f"out={tmp_path}/out")
    with Image.open(trained[0] / "previews/step_0000004.png") as a, Image.open(tmp_path / "out/grid.png") as b:
        difference = np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))
    assert difference.max() <= 1  # a value on the edge between two bytes


def test_samples_do_not_mix_with_others(trained, refused, tmp_path):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    run("sample.py", f"checkpoint={checkpoint}", "classes=[1]", "per_class=1", "steps=1", f"out={tmp_path}/out")
    text = refused("sample.py", f"checkpoint={checkpoint}", "classes=[2]", "steps=1", f"out={tmp_path}/out")
    assert "already holds samples" in text


@pytest.mark.slow
def test_samples_of_a_sweep_can_be_made_side_by_side(trained, tmp_path):
    asked = [f"checkpoint={trained[0]}/checkpoints/last.ckpt", "per_class=1", "steps=1", "seed=5,6"]
    run_apart(
        "sample.py", "-m", "hydra/launcher=slots", "hydra.launcher.slots=2", *asked, f"hydra.sweep.dir={tmp_path}/out"
    )
    made = [json.loads((tmp_path / "out" / name / "samples.json").read_text()) for name in "01"]
    assert [protocol["seed"] for protocol in made] == [5, 6]


def test_commands_of_the_readme_work(trained, refused, tmp_path, monkeypatch, capfd):
    """The Python example runs, every training command composes, the sampling commands sample."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example, {})
    assert "torch.Size([4, 16]) NFE(evaluations=20, rows=40.0" in capfd.readouterr().out
    commands = [line.split("#")[0].split() for line in text.splitlines() if line.startswith("python ")]
    assert len(commands) >= 8
    monkeypatch.chdir(ROOT)
    for _, script, *arguments in commands:
        if script == "train.py":
            plain = [a for a in arguments if a not in ("-m", "--cfg", "job") and "," not in a]
            monkeypatch.setattr(sys, "argv", [script, *plain, "--cfg", "job"])
            runpy.run_path(str(ROOT / script), run_name="__main__")
            assert "optimizer:" in capfd.readouterr().out
    command, sweep, imported = (c for c in commands if c[1] == "sample.py")
    text = refused("sample.py", *imported[2:])
    assert "error: checkpoint=dit.safetensors does not exist" in text  # its options are known
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    changed = {"checkpoint": checkpoint, "out": tmp_path / "out", "steps": 2}
    arguments = [a for a in command[2:] if a.split("=")[0] not in changed]
    run("sample.py", *arguments, *(f"{key}={value}" for key, value in changed.items()))
    assert len(list((tmp_path / "out").glob("0*.png"))) == 16
    arguments = [a for a in sweep[2:] if not a.startswith("checkpoint=")]
    run("sample.py", *arguments, f"checkpoint={checkpoint}", "steps=1", "per_class=1", f"paths.output_root={tmp_path}")
    (folder,) = (tmp_path / "samples").iterdir()  # made in less than the second that names it, and yet not mixed
    assert sorted(path.name for path in folder.iterdir()) == [*"012345", "multirun.yaml"]
    made = [json.loads((folder / name / "samples.json").read_text()) for name in "012345"]
    assert [protocol["guidance"]["scale"] for protocol in made] == [1, 1, 1.5, 1.5, 2, 2]


def test_a_mistake_keeps_its_traceback_when_asked(tmp_path):
    with pytest.raises(ValueError, match=r"dropout\.class must be a finite number from 0 to 1, got 2"):
        run("train.py", "dropout.class=2", f"hydra.run.dir={tmp_path}", HYDRA_FULL_ERROR="1")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["classes=[10]"], "classes must be labels 0 to 9 or names of 0, 1, 2"),
        (["classes=[-1]"], "got -1"),
        (["per_class=0"], "per_class must be a whole number from 1 to 10,000,000, got 0"),
        (["classes=dog"], "got 'dog'"),
        (["steps=2.5"], "steps must be a whole number from 1 to 1,000,000, got 2.5"),
        (["solver=magic"], "Could not find 'solver/magic'"),
        (["format=gif"], "format must be png or npz, got 'gif'"),
        (["weights=0.5"], "weights must be ema, raw or one of 0.999, got"),
        (["guidance.scale=nan"], "guidance.scale must be a finite number or a function, got nan"),
        (["device=cuda:99"], "device must be auto, cpu or a device of this machine, got 'cuda:99'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_in_sampling_gets_one_sentence(overrides, sentence, trained, refused, tmp_path):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    text = refused("sample.py", f"checkpoint={checkpoint}", *overrides, f"out={tmp_path}/out")
    assert sentence in text
    assert not (tmp_path / "out").exists()


def test_missing_and_broken_checkpoints_get_one_sentence(trained, refused, tmp_path):
    whole = (trained[0] / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    for name, part in {"nothing": "does not exist", "half": "truncated", "other": "of another kind"}.items():
        assert part in refused("sample.py", f"checkpoint={tmp_path}/{name}.ckpt")
    assert "checkpoint" in refused("sample.py")


def test_guidance_on_a_model_trained_without_dropout_is_refused(refused, tmp_path):
    run("train.py", "debug=fast", "dropout.class=0", f"hydra.run.dir={tmp_path}")
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    text = refused("sample.py", f"checkpoint={checkpoint}", "guidance.scale=2", "steps=1", f"out={tmp_path}/out")
    assert "trained with dropout.class 0, so only guidance.scale=1 is allowed" in text
    run("sample.py", f"checkpoint={checkpoint}", "steps=1", f"out={tmp_path}/out")


def test_a_folder_with_an_unreadable_picture_names_it(refused, tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    options = ["debug=fast", "data=folder", f"data.root={tmp_path}", "data.image_size=8", "data.batch_size=16"]
    (tmp_path / "train" / "b" / "3.png").write_bytes(b"broken")
    text = refused("train.py", *options, f"hydra.run.dir={tmp_path}/again")
    assert "cannot read the picture" in text
    assert "b/3.png" in text


@pytest.mark.slow
def test_a_sweep_over_schedules_and_dropout_samples_in_every_job(tmp_path):
    run_apart(
        "train.py", "-m", "diffusion=ddpm_linear,ddpm_cosine,flow_linear", "dropout.class=0,0.1",
        "trainer.max_steps=20", "lr_schedule.warmup=1", f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    shapes = []
    for job in range(6):
        assert (tmp_path / str(job) / "previews" / "step_0000020.png").is_file()
        state = torch.load(tmp_path / str(job) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        shapes.append({name: tuple(tensor.shape) for name, tensor in state.items()})
    assert all(shape == shapes[0] for shape in shapes)


def test_a_checkpoint_of_others_is_imported_and_sampled(refused, monkeypatch, tmp_path):
    """From the public layout to pictures: imported, inspected, sampled as DiT was, decoded by an autoencoder."""
    file = saved(tmp_path, weights(doubled=True))
    vae = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, latent_channels=4)
    vae.save_pretrained(tmp_path / "vae")
    ours = tmp_path / "dit.safetensors"
    monkeypatch.setattr(sys, "argv", ["dit.checkpoint", "import", "dit", str(file), str(ours), "--num-heads", "2"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("dit.checkpoint", run_name="__main__", alter_sys=True)
    published = ["solver=ddpm", "solver.variance=learned", "grid=linspace", "guidance.channels=3", "guidance.scale=4"]
    options = [f"checkpoint={ours}", "classes=[0,2]", "per_class=1", "steps=3", *published]
    run("sample.py", *options, f"vae={tmp_path}/vae", f"out={tmp_path}/images")
    with Image.open(tmp_path / "images" / "00000_0.png") as picture:
        assert picture.mode == "RGB"
    protocol = json.loads((tmp_path / "images" / "samples.json").read_text())
    assert protocol["guidance"]["channels"] == 3
    assert protocol["normalisation"]["name"] == "Latents"
    text = refused("sample.py", *options, f"out={tmp_path}/none")
    assert "error: vae must name a diffusers AutoencoderKL, by folder or on the hub: these are latents" in text
    text = refused("evaluate.py", f"checkpoint={ours}")
    assert "error: this checkpoint was not trained here: it names no pictures to score samples against" in text


def test_latents_are_trained_on_and_their_samples_decoded(made, refused, tmp_path):
    """From a cache to pictures with nothing typed twice: the checkpoint knows its autoencoder."""
    sizes = ["model.hidden_size=32", "model.depth=1", "model.num_heads=2"]
    settings = [f"data.root={made}", *sizes, "data.batch_size=8", "validate_every=20", f"hydra.run.dir={tmp_path}/run"]
    run("train.py", "data=latents", "debug=fast", *settings)
    with Image.open(next((tmp_path / "run" / "previews").glob("*.png"))) as picture:
        assert picture.mode == "RGB"
    options = [f"checkpoint={tmp_path}/run/checkpoints/last.ckpt", "per_class=1", "steps=2"]
    run("sample.py", *options, "vae_slicing=true", f"out={tmp_path}/images")
    with Image.open(tmp_path / "images" / "00000_0.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (16, 16))
    text = refused("evaluate.py", options[0])
    assert "error: this model was trained on latents: there are no pictures to score samples against" in text
