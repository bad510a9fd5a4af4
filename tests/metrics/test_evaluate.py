"""evaluate.py as a user runs it: what it scores, what it writes, what it refuses before it computes anything."""

import contextlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from data import real_of_split
from dit.checkpoint.exporting import export_safetensors
from dit.checkpoint.importing import import_loaded
from dit.files import read_json
from dit.metrics import SCORES, Estimate, Row, table
from dit.metrics import classifier as judge
from dit.model import network_from_spec
from dit.output import write_samples
from tests.checkpoint.foreign import saved, weights
from tests.training.tiny import digits, module, trainer

ROOT = Path(__file__).parent.parent.parent
DIGITS = {
    "name": "Digits",
    "image_size": 8,
    "channels": 1,
    "num_classes": 10,
    "batch_size": 64,
    "validation_images": 360,
}
SEVERAL = "torch.distributed.run", "--standalone", "--nproc-per-node=2"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small network after a few steps, whose metadata name the digits."""
    file = tmp_path_factory.mktemp("run") / "last.ckpt"
    data = digits()
    fit = trainer(file.parent, 3)
    fit.fit(module(data), datamodule=data)
    fit.save_checkpoint(file)
    return changed(file, file, pictures=DIGITS)


def changed(file, to, **metadata):
    contents = torch.load(file, weights_only=True)
    contents["metadata"] |= metadata
    torch.save(contents, to)
    return to


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """With a classifier of the digits that has learnt for 150 steps, where evaluate.py would train for 600."""
    folder, fit = tmp_path_factory.mktemp("cache"), judge._fit
    data = digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "_fit", lambda network, images, labels, steps: fit(network, images, labels, 150))
        train, held_out = (real_of_split("digits", split) for split in (data.train, data.validation))
        judge.classifier_of(train, held_out, 10, folder)
    return folder


@pytest.fixture
def evaluate(monkeypatch, capfd, tmp_path, cache):
    """Runs the script in this process, which saves its start-up: what it said, and scores.json."""

    def run_here(*arguments, refused=False, cache=cache):
        out = tmp_path / "out"
        options = [*map(str, arguments), f"cache={cache}", f"hydra.run.dir={out}", "replicates=99"]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *options])
        monkeypatch.chdir(ROOT)
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setenv("COLUMNS", "80")
        capfd.readouterr()
        if not refused:
            runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")
            return "".join(capfd.readouterr()), json.loads((out / "scores.json").read_text())
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")
        text = "".join(capfd.readouterr())
        assert stop.value.code not in (0, None), text
        assert "Traceback" not in text, text
        assert not list(out.glob("s*")), "neither scores.json nor samples.png"
        return text.removeprefix("reading the configuration\n")

    return run_here


def command(checkpoint, cache, out, *arguments, starter=()):
    """Of a process of its own, with the environment it must have for figures that are the same to the bit."""
    start = [sys.executable, *(["-m", *starter] if starter else []), str(ROOT / "evaluate.py")]
    options = [f"checkpoint={checkpoint}", f"cache={cache}", f"hydra.run.dir={out}", "replicates=99", "device=cpu"]
    return [*start, *options, *map(str, arguments)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}


def run(*arguments, **options):
    done = subprocess.run(
        command(*arguments, **options), cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scores(folder):
    """scores.json but for the time it took."""
    found = read_json(folder / "scores.json")
    for row in found["rows"]:
        row["seconds"] = None
    return found


def kept(cache):
    """What is kept of the samples, each file's tensors."""
    return {str(f.relative_to(cache)): load_file(f) for f in sorted(cache.glob("samples-*/images_*"))}


def assert_same(ours, others):
    assert ours.keys() == others.keys()
    for file, tensors in ours.items():
        assert tensors.keys() == others[file].keys()
        assert all(torch.equal(tensor, others[file][name]) for name, tensor in tensors.items()), file


def pngs(folder, images, labels=None, names=str):
    for number, image in enumerate(images):
        file = folder / ("" if labels is None else names(int(labels[number]))) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(file)
    return folder


def npz(file, images, labels=None, **more):
    arrays = {"arr_0": images.permute(0, 2, 3, 1).numpy(), **more}
    np.savez(file, **(arrays if labels is None else arrays | {"arr_1": labels.numpy()}))
    return file


@pytest.fixture(scope="module")
def held_out():
    return digits().validation.tensors()


def test_a_checkpoint_is_scored_in_a_row_a_scale(evaluate, checkpoint, tmp_path):
    text, found = evaluate(f"checkpoint={checkpoint}", "guidance_scales=[1,1.5]", "images=30", "steps=2", "shown=20")
    real, one, more = found["rows"]
    assert [row["name"] for row in found["rows"]] == ["real pictures", "CFG 1", "CFG 1.5"]
    assert (real["solver"], real["images"], one["images"], more["images"]) == (None, 30, 30, 30)
    assert (one["scale"], one["rows"], more["scale"], more["rows"]) == (1, 3, 1.5, 6)  # Heun: 2 steps, 3 evaluations
    assert all(row["scores"][name]["value"] is not None for row in found["rows"] for name in row["scores"])
    assert real["scores"]["accuracy"]["value"] > 0.9
    protocol = found["protocol"]
    assert protocol["reference"]["name"] == "digits validation"
    assert (protocol["images"], protocol["labels"], protocol["step"]) == (30, "balanced", 3)
    assert protocol["checkpoint"] == str(checkpoint)
    assert protocol["normalisation"]["name"] == "Pixels"
    assert found["line"].split()[:3] == ["protocol:", "30", "images,"]
    assert protocol["real_pictures"] == {"split": "train", "images": 30, "labels": "balanced"}
    assert ", real pictures 30 of train, their labels those of the samples, 32-true on " in found["line"]
    assert (protocol["precision"], protocol["compile"], protocol["batch_size"]) == ("32-true", None, 128)
    assert protocol["torch"] == torch.__version__
    with Image.open(tmp_path / "out" / "samples.png") as sheet:
        assert sheet.size == (10 * 50 + 2, 2 * 50 + 2)
    assert {f.name for f in (tmp_path / "out").iterdir()} == {".hydra", ".run.lock", "samples.png", "scores.json"}
    lines = text.splitlines()
    assert max(map(len, [line for line in lines if not line.startswith("scores: ")])) <= 80
    headings = [word for line in lines if line.startswith("guidance ") for word in line.split()]
    assert headings == [
        *("guidance", "accuracy", "Frechet", "spatial", "KID", "IS", "precision", "recall", "density"),
        *("guidance", "coverage", "images", "NFE", "rows", "seconds"),
    ]


def test_samples_of_bfloat16_and_of_compiled_blocks_are_others(evaluate, checkpoint):
    names = ["metrics=[frechet]", "images=30", "steps=2"]
    plain, cast, compiled = (
        evaluate(f"checkpoint={checkpoint}", *names, *more)[1]
        for more in ([], ["precision=bf16-true"], ["compile=aot_eager"])
    )
    assert cast["protocol"]["weights"] == f"{plain['protocol']['weights']} in bfloat16"
    values = [found["rows"][-1]["scores"]["frechet"]["value"] for found in (plain, cast, compiled)]
    assert values[1] != values[0]  # not read from the cache of the others
    assert values == pytest.approx([values[0]] * 3, rel=0.02)


@pytest.mark.parametrize("width", [50, 80, 100, 160])
def test_no_number_is_cut_where_the_terminal_is_narrow(width):
    scores = dict.fromkeys(SCORES, Estimate(123.456789, 100.0, 150.0))
    name = "DynamicThreshold(TNR 0.5(Interval(CFG LinearScale 1-2.5)))"
    rows = [Row(name, 50_000, scores, evaluations=499, rows=998.5, seconds=12345.6), Row("real pictures", 9, scores)]
    console = Console(width=width, file=io.StringIO())
    console.print(table(rows, width))
    printed = console.file.getvalue()
    words = printed.split()
    assert max(map(len, printed.splitlines())) <= width
    assert words.count("123.457") == 2 * 5
    assert words.count("123") == 2 * 4
    for word in ("50,000", "499", "998.5", "12345.6", "coverage", "images", "seconds"):
        assert words.count(word) == 1, word


def test_more_images_go_on_from_fewer_and_nothing_is_computed_twice(evaluate, checkpoint, tmp_path, cache):
    mine = tmp_path / "cache"
    mine.mkdir()
    for file in cache.glob("classifier-*"):
        (mine / file.name).hardlink_to(file)
    options = f"checkpoint={checkpoint}", "steps=1", "batch_size=8", "metrics=[frechet]"
    few = evaluate(*options, "images=16", cache=mine)[1]
    before = {file: file.stat().st_mtime_ns for file in mine.rglob("*") if file.is_file()}
    text, many = evaluate(*options, "images=30", cache=mine)
    assert "16 of 30 images are there already" in text
    assert {f: f.stat().st_mtime_ns for f in before if f.name != ".lock"} == {
        f: at for f, at in before.items() if f.name != ".lock"
    }
    made = kept(mine)
    assert sum(len(tensors["pooled"]) for tensors in made.values()) == 30
    assert many["rows"][1]["images"] == 30
    assert evaluate(*options, "images=16", cache=mine)[1] == few  # seconds too: they are those of the sampling


def test_two_processes_measure_what_one_does(evaluate, checkpoint, cache, tmp_path):
    caches = [tmp_path / name for name in ("one", "two")]
    for folder in caches:
        folder.mkdir()
        for file in cache.glob("classifier-*"):
            (folder / file.name).hardlink_to(file)
    options = "images=40", "steps=2", "batch_size=8", "guidance_scales=[1,2]"
    evaluate(f"checkpoint={checkpoint}", *options, "device=cpu", cache=caches[0])
    run(checkpoint, caches[1], tmp_path / "b", *options, "trainer.devices=2")
    assert scores(tmp_path / "out") == scores(tmp_path / "b")
    assert_same(kept(caches[0]), kept(caches[1]))
    assert (tmp_path / "out" / "samples.png").read_bytes() == (tmp_path / "b" / "samples.png").read_bytes()


@pytest.mark.slow
def test_torchrun_and_a_kill_in_the_middle_change_nothing(checkpoint, tmp_path):
    """With the classifier trained by whoever comes first, in a cache that is shared or not."""
    options = "images=320", "steps=20", "batch_size=8", "metrics=[frechet,accuracy,kid]"
    run(checkpoint, tmp_path / "straight", tmp_path / "a", *options)
    run(checkpoint, tmp_path / "torchrun", tmp_path / "b", *options, starter=SEVERAL)
    for devices in (1, 2):
        broken = tmp_path / f"killed{devices}"
        out = tmp_path / f"c{devices}"
        wanted = command(checkpoint, broken, out, *options, f"trainer.devices={devices}")
        process = subprocess.Popen(wanted, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL)
        while len(list(broken.glob("samples-*/images_*"))) < 10:
            assert process.poll() is None
            time.sleep(0.02)
        for child in [*children(process.pid), process.pid]:
            os.kill(child, signal.SIGKILL)
        process.wait()
        time.sleep(0.5)
        assert 10 <= len(kept(broken)) < 40
        assert not (out / "scores.json").exists()
        run(checkpoint, broken, out, *options, f"trainer.devices={3 - devices}")
        assert scores(out) == scores(tmp_path / "a")
        assert_same(kept(broken), kept(tmp_path / "straight"))
        assert sum(len(tensors["pooled"]) for tensors in kept(broken).values()) == 320
    assert scores(tmp_path / "b") == scores(tmp_path / "a")
    assert_same(kept(tmp_path / "torchrun"), kept(tmp_path / "straight"))
    run(checkpoint, tmp_path / "straight", tmp_path / "d", *options, "trainer.devices=2")  # all is there already
    assert scores(tmp_path / "d") == scores(tmp_path / "a")


def children(parent):
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = file.read_text().split(" ", 1)
        except OSError:
            continue
        if int(rest.rpartition(")")[2].split()[1]) == parent:
            found += [*children(int(pid)), int(pid)]
    return found


def test_a_folder_is_judged_by_the_classifier_of_other_data(evaluate, held_out, tmp_path):
    images, labels = held_out[0][:60], held_out[1][:60]
    some = labels % 3 == 1  # 1, 4, 7: the labels are not the numbers of the subfolders
    right = pngs(tmp_path / "right", images[some], labels[some])
    text, found = evaluate("data=digits", f"fake={right}")
    (row,) = found["rows"]
    assert (row["name"], row["images"], row["guidance"]) == ("right", int(some.sum()), None)
    assert row["scores"]["accuracy"]["value"] > 0.9
    assert found["protocol"]["reference"]["name"] == "digits validation"
    assert found["protocol"]["seed"] is None
    assert "reference digits validation (360 pictures" in text.replace("\n", " ")
    wrong = pngs(tmp_path / "wrong", images[some], (labels[some] + 1) % 10)
    assert evaluate("data=digits", f"fake={wrong}")[1]["rows"][0]["scores"]["accuracy"]["value"] < 0.1
    shards = pngs(tmp_path / "shards", images[:20], labels[:20], names=lambda label: f"{label:05d}")
    assert evaluate("data=digits", f"fake={shards}")[1]["rows"][0]["scores"]["accuracy"] is None


def test_npz_files_on_either_side(evaluate, held_out, tmp_path):
    images, labels = held_out
    fake = npz(tmp_path / "fake.npz", images[:50], labels[:50])
    same = npz(tmp_path / "same.npz", images[:50])
    row = evaluate("data=digits", f"fake={fake}", f"real={same}")[1]["rows"][0]
    assert row["name"] == "fake.npz"
    assert row["scores"]["accuracy"]["value"] > 0.9
    assert abs(row["scores"]["frechet"]["value"]) < 1e-6
    assert row["scores"]["precision"]["value"] == row["scores"]["coverage"]["value"] == 1
    moments = tmp_path / "moments.npz"
    np.savez(moments, mu=np.zeros(64), sigma=np.eye(64))
    text, found = evaluate("data=digits", f"fake={fake}", f"real={moments}")
    values = found["rows"][0]["scores"]
    assert [name for name, value in values.items() if value is None] == [
        "spatial_frechet", "kid", "precision", "recall", "density", "coverage"
    ]  # fmt: skip
    assert "moments alone" in text.replace("\n", " ")


def test_two_folders_in_features_of_inception_need_no_data(evaluate, inception, tmp_path):
    """Of any size, each by itself."""
    images = torch.randint(0, 256, (24, 3, 12, 12), dtype=torch.uint8)
    fake = pngs(tmp_path / "fake", images[:12])
    real = pngs(tmp_path / "real", images[12:, :, :10])
    mine = tmp_path / "cache"
    options = (
        f"fake={fake}",
        f"real={real}",
        "features=inception",
        f"features.weights={inception}",
        "metrics=[kid,inception_score]",
    )
    found = evaluate(*options, cache=mine)[1]
    assert found["protocol"]["features"]["name"] == "inception"
    assert found["protocol"]["reference"]["images"] == 12
    assert all(score["value"] is not None for score in found["rows"][0]["scores"].values())
    assert [file.name[:10] for file in mine.iterdir() if file.suffix] == ["reference-"]


def test_a_checkpoint_against_a_folder(evaluate, checkpoint, held_out, tmp_path):
    real = pngs(tmp_path / "real", held_out[0][:40])
    found = evaluate(f"checkpoint={checkpoint}", f"real={real}", "images=20", "steps=1")[1]
    assert [row["name"] for row in found["rows"]] == ["CFG 1"]  # whose other half nobody knows
    assert found["protocol"]["reference"] | {"digest": ""} == {"name": "real", "images": 40, "digest": ""}
    assert found["rows"][0]["scores"]["accuracy"] is not None


@pytest.fixture(scope="module")
def of_latents(tmp_path_factory, checkpoint):
    """A network of latents of 3 channels and 8 x 8, with the digits' classes."""
    file = tmp_path_factory.mktemp("latents") / "last.ckpt"
    contents = torch.load(checkpoint, weights_only=True)
    metadata = contents["metadata"]
    network = network_from_spec(metadata["network"] | {"channels": 3})
    contents["ema"]["averages"] = {"0.9": network.state_dict()}
    metadata |= {"network": network.spec, "pictures": {"name": "Digits"}}
    codec = {"name": "Latents", "scale": 1.0, "shift": 0.0, "vae": None}
    metadata |= {"channels": 3, "codec": codec}
    torch.save(contents, file)
    return f"checkpoint={file}"


def test_models_of_latents_are_scored_by_what_their_latents_decode_to(evaluate, of_latents, vae, inception, tmp_path):
    real = pngs(tmp_path / "real", torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8))
    options = [of_latents, f"real={real}", "images=10", "steps=1", "metrics=[kid]", f"vae={vae}"]
    found = evaluate(*options, "features=inception", f"features.weights={inception}")[1]
    assert found["rows"][0]["scores"]["kid"]["value"] is not None
    assert found["protocol"]["normalisation"]["vae"] == str(vae)
    with Image.open(tmp_path / "out" / "samples.png") as sheet:
        assert sheet.mode == "RGB"
    (tmp_path / "out" / "samples.png").unlink()
    (tmp_path / "out" / "scores.json").unlink()
    assert "the classifier needs labelled pictures to learn from" in evaluate(*options, refused=True)
    assert "vae must name a diffusers AutoencoderKL" in evaluate(*options[:-1], refused=True)
    assert "trained on latents: there are no pictures to score samples against; real=" in evaluate(
        of_latents, refused=True
    )


def test_an_imported_checkpoint_is_scored_where_real_is_given(evaluate, inception, vae, tmp_path):
    ours = import_loaded(saved(tmp_path, weights(doubled=True)), "dit", num_heads=2)
    export_safetensors(ours, tmp_path / "dit.safetensors")
    real = pngs(tmp_path / "real", torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8))
    decoder = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, latent_channels=4)
    decoder.save_pretrained(tmp_path / "vae")
    options = f"checkpoint={tmp_path}/dit.safetensors", "images=4", "steps=1", "metrics=[kid]"
    more = f"real={real}", "features=inception", f"features.weights={inception}"
    found = evaluate(*options, f"vae={tmp_path}/vae", *more)[1]
    assert found["rows"][0]["scores"]["kid"]["value"] is not None
    for file in ("samples.png", "scores.json"):
        (tmp_path / "out" / file).unlink()
    said = evaluate(*options, f"vae={vae}", *more, refused=True)
    assert "decodes latents of 3 channels, but those of this model have 4" in said
    said = evaluate(*options, f"vae={tmp_path}/vae", refused=True)
    assert "not trained here: it names no pictures to score samples against; real=" in said


@pytest.mark.parametrize("form", ["png", "npz"])
def test_what_sample_py_wrote_is_scored_with_its_labels(evaluate, held_out, tmp_path, form):
    """The sheet is no sample, and samples.json knows the class of each."""
    images, labels = held_out
    protocol = {"labels": labels[:60].tolist(), "class_names": [str(n) for n in range(10)]}
    write_samples(tmp_path / "made", images[:60], protocol["labels"], 10, protocol, form)
    if form == "png":
        write_samples(tmp_path / "bad", images[:10], labels[:10].tolist(), 10, protocol | {"labels": [10] * 10}, form)
        said = evaluate("data=digits", f"fake={tmp_path}/bad", refused=True)
        assert "samples.json of fake=" in said
        assert "has labels of no class" in said
    _, found = evaluate("data=digits", f"fake={tmp_path}/made", "metrics=[accuracy,frechet]")
    _, apart = evaluate(
        "data=digits", f"fake={npz(tmp_path / 'x.npz', images[:60], labels[:60])}", "metrics=[accuracy]"
    )
    (row,) = found["rows"]
    assert row["images"] == 60
    assert row["scores"]["accuracy"] == apart["rows"][0]["scores"]["accuracy"]
    assert row["scores"]["accuracy"]["value"] > 0.9


def test_mistakes_are_told_in_one_sentence_before_anything_is_made(evaluate, checkpoint, held_out, tmp_path):
    images, labels = held_out
    good = pngs(tmp_path / "good", images[:20])
    colour = pngs(tmp_path / "colour", images[:20].expand(-1, 3, -1, -1))
    large = pngs(tmp_path / "large", images[:20].repeat(1, 1, 2, 2))
    mixed = pngs(tmp_path / "mixed", images[:3])
    pngs(mixed / "x", images[:1].repeat(1, 1, 2, 1))
    blank = pngs(tmp_path / "blank", images[:20])
    Image.new("L", (8, 8), 7).save(blank / "0013.png")
    hole = pngs(tmp_path / "hole", images[:20], labels[:20] % 2)
    (hole / "7").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    np.savez(tmp_path / "keys.npz", images=np.zeros(3))
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    far = npz(tmp_path / "far.npz", images[:20], labels[:20] + 500)
    few = npz(tmp_path / "few.npz", images[:4])
    bare = torch.load(checkpoint, weights_only=True)
    bare["metadata"]["dropout"]["class"] = 0.0
    torch.save(bare, tmp_path / "no_dropout.ckpt")
    model, data = f"checkpoint={checkpoint}", "data=digits"
    for arguments, sentence in {
        (): "either checkpoint or fake must say whose images are scored, and not both",
        (model, f"fake={good}"): "either checkpoint or fake must say whose images are scored, and not both",
        (model, "images=1"): "images must be a whole number from 2 to 100,000,000, got 1",
        (model, "images=5"): "5 images are too few: inception_score needs at least 10; metrics=[...] drops it",
        (model, "images=5", "metrics=[kid,recall]"): "5 images are too few: recall needs at least 6",
        (model, "metrics=[fid]"): "metrics must be some of frechet, spatial_frechet, kid, inception_score, precision, "
        "recall, density, coverage, accuracy, got 'fid'",
        (model, "metrics=[]"): "metrics must name some of frechet",
        (model, "guidance_scales=[]"): "scales must name at least one guidance scale, or be null, got []",
        (model, "guidance_scales=[much]"): "guidance_scales must be a list, each a finite number or null, got ['much']",
        (model, "split=test"): "split must be validation or train, got 'test'",
        (model, "labels=even"): "labels must be balanced or random, got 'even'",
        (model, "shown=0"): "shown must be a whole number from 1 to 10,000, got 0",
        (model, "vae=x"): "vae=x has nothing to decode: this model makes pixels",
        (model, "data=synthetic"): "the real pictures have image_size=32, but the checkpoint was trained on 8",
        (model, f"real={few}", "metrics=[recall]"): "4 pictures in the reference few.npz are too few: recall needs at "
        "least 6",
        (model, f"real={colour}"): "real: pictures of 3x8x8 (channels, height, width), but the classifier learns from "
        "those of 1x8x8",
        (model, f"real={tmp_path}/wide.npz"): "mu of wide.npz has 2048 features, but classifier has 64",
        (model, f"real={tmp_path}/keys.npz"): "keys.npz holds images, but only arr_0, arr_1, mu, sigma, mu_s, sigma_s",
        (
            f"checkpoint={tmp_path}/no_dropout.ckpt",
            "guidance_scales=[1.5]",
        ): "it was trained with dropout.class 0, so only guidance.scale=1 is allowed",
        (f"fake={good}",): "the classifier needs labelled pictures to learn from",
        (f"fake={good}", "features=dinov2", "features.weights=none.pt"): "none.pt",
        (data, f"fake={colour}"): "images to score: pictures of 3x8x8 (channels, height, width), but the classifier",
        (data, f"fake={large}"): "images to score: pictures of 1x16x16 (channels, height, width), but the classifier",
        (data, f"fake={mixed}"): "0000.png is 8x16 grey, but",
        (data, f"fake={blank}"): "0013.png is constant, which no score takes",
        (data, f"fake={good}", f"real={blank}"): "0013.png is constant, which no score takes",
        (data, f"fake={hole}"): "hole/7 holds no pictures of its class: fill it or remove it",
        (data, f"fake={tmp_path}/empty"): "empty holds no pictures",
        (data, f"fake={tmp_path}/file.txt"): "file.txt must be a folder of pictures or an .npz file",
        (data, f"fake={tmp_path}/wide.npz"): "wide.npz holds no images",
        (data, f"fake={tmp_path}/none.npz"): "none.npz cannot be read as .npz",
        (data, f"fake={far}"): "but the data has 10 classes",
        (data, f"fake={few}"): "4 pictures in fake=",
    }.items():
        found = evaluate(*arguments, refused=True)
        assert f"{sentence}" in found, (arguments, found)
        assert found.startswith("error: "), found
    if not torch.cuda.is_available():
        assert "but this process sees no GPU" in evaluate(model, "device=cuda", refused=True)


def test_a_cache_that_cannot_be_written_is_named(evaluate, checkpoint, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "locked" / ".lock").mkdir(parents=True)
    for cache in (tmp_path / "file", tmp_path / "file" / "cache", tmp_path / "locked"):
        said = evaluate(f"checkpoint={checkpoint}", "images=20", cache=cache, refused=True)
        assert said.startswith(f"error: cache must be a folder that can be written to, got {cache} ("), said


def test_a_judge_that_has_learnt_nothing_judges_nothing(evaluate, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "_fit", lambda *_: None)
    said = evaluate(f"checkpoint={checkpoint}", "images=20", cache=tmp_path / "cache", refused=True)
    assert "held-out pictures right, too few to judge samples: at least 0.550 is needed" in said
    assert not list((tmp_path / "cache").glob("[rs]*")), "no reference, no samples"


@pytest.mark.slow
def test_a_sweep_shares_the_cache_and_ends_in_a_report(checkpoint, cache, tmp_path):
    mine = tmp_path / "cache"
    mine.mkdir()
    for file in cache.glob("classifier-*"):
        (mine / file.name).hardlink_to(file)
    swept = "guidance=cfg,cfg_plus_plus", "guidance_scales=1,1.5", "ema=ema,raw"
    told = ["-m", f"checkpoint={checkpoint}", *swept, "images=40", "steps=2", f"cache={mine}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), *told, f"hydra.sweep.dir={tmp_path}/sweep", "replicates=99"],
        cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "8 of 8 trials finished" in text
    for number in range(8):
        assert (tmp_path / "sweep" / str(number) / "scores.json").is_file()
        assert (tmp_path / "sweep" / str(number) / "samples.png").is_file()
    assert [len(list(mine.glob(f"{kind}-*"))) for kind in ("classifier", "reference", "scores")] == [1, 1, 1]
    assert len(list(mine.glob("samples-*"))) == 8
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert "| guidance | scales | ema | Frechet distance |" in report
    assert report.count("| real pictures |") == 1
    assert "different protocols" not in report
    assert (tmp_path / "sweep" / "report" / "scale_frechet.png").is_file()


@pytest.mark.parametrize(("option", "word"), [("--help", "checkpoint: null"), ("--cfg=job", "labels: balanced")])
def test_the_configuration_can_be_asked_for(option, word, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", option])
    monkeypatch.chdir(ROOT)
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")
    assert word in capfd.readouterr().out
