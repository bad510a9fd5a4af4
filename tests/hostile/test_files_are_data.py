"""What a file says is data: a call written into any place of it is refused in one sentence, or left lying there."""

import json
import runpy
import sys
import tracemalloc
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from data import pictures_from_spec
from dit.checkpoint import Metadata, load, read
from dit.checkpoint.exporting import export_safetensors
from dit.codec import codec_from_spec
from tests.checkpoint.ours import PASSPORT, checkpoint
from tests.hostile.calls import call, everywhere

ROOT = Path(__file__).parents[2]
DIGITS = {"name": "Digits", "image_size": 8, "channels": 1, "num_classes": 10, "batch_size": 64, "augment": None}
LATENTS = {"name": "Latents", "scale": 1.0, "shift": [0.0], "vae": "somebody/vae", "vae_hash": "0"}


@pytest.fixture(autouse=True)
def nothing_is_instantiated(monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"instantiated {arguments}")

    monkeypatch.setattr("hydra._internal.instantiate._instantiate2._call_target", refuse)


def uses(loaded):
    """What the scripts build of a checkpoint."""
    loaded.codec()
    pictures_from_spec(loaded.pictures)


def outcomes(documents, use, proof):
    """Reads each document; the sentences of those that were refused."""
    refused = {}
    for place, document in documents:
        try:
            use(document)
        except ValueError as error:
            refused[place] = str(error)
    assert not proof.exists()
    assert not [place for place, sentence in refused.items() if "\n" in sentence]
    return refused


@pytest.fixture
def proof(tmp_path):
    return tmp_path / "proof"


def today(passport):
    """The same as this version writes it."""
    return Metadata.from_dict(passport).to_dict() | {"version": 2}


OLD = {
    "pixels": {**PASSPORT, "pictures": DIGITS},
    "latents": {**PASSPORT, "data": {**PASSPORT["data"], "normalisation": LATENTS}},
    "before they had an entry of their own": {
        **{key: value for key, value in PASSPORT.items() if key != "pictures"},
        "config": {"data": {**DIGITS, "_target_": "data.Digits", "name": None}},
    },
}
MADE = {
    **{f"{kind}, of version 1": ("passport", said) for kind, said in OLD.items()},
    **{
        kind: ("metadata", today(said)) for kind, said in OLD.items() if kind != "before they had an entry of their own"
    },
}
MADE["a condition"] = "metadata", MADE["pixels"][1] | {"conditions": {"augment": [2]}, "adapters": []}
REFUSED = {
    "passport": {"the whole", "model", "model.depth", "path", "path.name", "path.steps", "kind", "sigma_data"}
    | {"data.normalisation", "data.class_names.0", "data.num_classes"},
    "metadata": {"the whole", "network", "network.name", "network.depth", "path", "path.name", "path.steps", "kind"}
    | {"codec", "class_names.0", "num_classes", "sigma_data", "dropout.class", "version", "ditlab", "conditions"},
}


@pytest.mark.parametrize(("kind", "file"), [*((kind, "x.safetensors") for kind in MADE), ("pixels", "x.ckpt")])
def test_calls_in_metadata(kind, file, tmp_path, proof):
    checkpoint(tmp_path / "good.ckpt")
    contents = torch.load(tmp_path / "good.ckpt", weights_only=True)
    export_safetensors(load(tmp_path / "good.ckpt"), tmp_path / "good.safetensors")
    weights = load_file(tmp_path / "good.safetensors")
    entry, good = MADE[kind]

    def use(metadata):
        if file.endswith(".ckpt"):
            torch.save({**contents, entry: metadata}, tmp_path / file)
            read(tmp_path / file)
        else:
            said = {entry: metadata, "weights": "ema 0.9", "step": 1}
            save_file(weights, tmp_path / file, {"format": "pt", "ditlab": json.dumps(said)})
        uses(load(tmp_path / file))

    refused = outcomes(everywhere(good, call(proof)), use, proof)
    assert REFUSED[entry] <= set(refused)
    where = {
        "pixels, of version 1": "pictures.batch_size",
        "latents, of version 1": "data.normalisation.scale",
        "before they had an entry of their own, of version 1": "config.data.batch_size",
        "pixels": "pictures.batch_size",
        "latents": "codec.scale",
        "a condition": "conditions.augment.0",
    }
    assert where[kind] in refused


MALFORMED = {
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 50_000,
    "empty": "",
    "null": "null",
    "list": "[]",
    "nothing": "{}",
    "empty metadata": '{"metadata": {}, "weights": "ema", "step": 1}',
    "nulls": '{"metadata": null, "weights": null, "step": null}',
    "more": '{"metadata": {}, "weights": "ema", "step": 1, "more": 1}',
    "number": "1e999",
}


@pytest.mark.parametrize("said", MALFORMED.values(), ids=MALFORMED)
def test_malformed_metadata_is_one_sentence(said, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"ditlab": said})
    with pytest.raises(ValueError, match=r"^checkpoint=.*x\.safetensors has metadata that this version cannot read: "):
        load(tmp_path / "x.safetensors")


def test_a_network_larger_than_its_file_is_never_built(tmp_path):
    """Of 37 GB, of a billion blocks, and of a picture so large that the table of positions alone would not fit."""
    checkpoint(tmp_path / "good.ckpt")
    contents = torch.load(tmp_path / "good.ckpt", weights_only=True)
    for key, value, why in (
        ("hidden_size", 200_000, "shape of patch_embed.weight is"),
        ("depth", 10**9, "depth=1,000,000,000, but there are"),
        ("image_size", 2**24, "tokens a picture, of which 262,144 are allowed"),
        ("num_classes", 10**12, "shape of label_embed.table.weight is"),
    ):
        contents["metadata"]["network"] = {**contents["metadata"]["network"], key: value}
        torch.save(contents, tmp_path / "x.ckpt")
        tracemalloc.start()
        with pytest.raises(ValueError, match=why):
            load(tmp_path / "x.ckpt")
        assert tracemalloc.get_traced_memory()[1] < 2**27
        tracemalloc.stop()
        contents["metadata"] = torch.load(tmp_path / "good.ckpt", weights_only=True)["metadata"]


def test_a_hub_name_in_a_file_is_not_fetched(monkeypatch):
    """Only the user's own word, vae=NAME, asks the hub."""
    asked = []

    def from_pretrained(name, local_files_only=False, **_):
        asked.append((name, local_files_only))
        raise OSError("not there")

    monkeypatch.setattr(diffusers.AutoencoderKL, "from_pretrained", from_pretrained)
    with pytest.raises(ValueError, match=r"are of the autoencoder 'somebody/vae', which is not on this machine; give"):
        codec_from_spec(LATENTS)
    with pytest.raises(ValueError, match="vae=me/mine cannot be loaded from the hub"):
        codec_from_spec(LATENTS, vae="me/mine")
    with pytest.raises(ValueError, match="normalisation Latents does not take 'fetch'"):
        codec_from_spec({**LATENTS, "fetch": True})
    assert asked == [("somebody/vae", True), ("me/mine", False)]


def test_pictures_that_a_file_names_are_not_downloaded(tmp_path):
    spec = {"name": "Cifar", "root": str(tmp_path), "image_size": 32, "channels": 3, "num_classes": 10, "batch_size": 8}
    assert not pictures_from_spec({**spec, "download": True}).download


@pytest.mark.parametrize("script", ["evaluate", "train"])
def test_the_scripts_take_a_file_for_data(script, tmp_path, proof, monkeypatch, capfd):
    """evaluate.py on the pictures, train.py finetune_from on the path that a checkpoint names."""
    monkeypatch.undo()
    checkpoint(tmp_path / "good.ckpt")
    contents = torch.load(tmp_path / "good.ckpt", weights_only=True)
    contents["metadata"] |= {"pictures": call(proof)} if script == "evaluate" else {}
    if script == "train":
        contents["metadata"]["path"] = {"name": "LinearFlow", "time_scale": call(proof)}
    torch.save(contents, tmp_path / "x.ckpt")
    told = {
        "evaluate": [f"checkpoint={tmp_path}/x.ckpt", "images=20", f"cache={tmp_path}/cache"],
        "train": ["experiment=digits", f"finetune_from={tmp_path}/x.ckpt", "trainer.max_steps=1"],
    }[script]
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *told, f"hydra.run.dir={tmp_path}/out"])
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
    said = capfd.readouterr().err
    assert stop.value.code == 1, said
    assert [line[:7] for line in said.splitlines() if line.strip()] == ["reading", "error: "], said
    assert not proof.exists()
