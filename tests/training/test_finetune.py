"""A run that begins with another's weights: everything is kept but the label table of other classes."""

from dataclasses import replace

import pytest
import torch

from dit.checkpoint import load
from dit.codec import Pixels
from dit.diffusion import DiscreteVP
from dit.model import DiT
from dit.objectives import MSE, HybridVLB
from dit.training import SaveCheckpoint, start_from
from tests.data.test_data import tree  # noqa: F401
from tests.test_scripts import run
from tests.training.tiny import digits, module, trainer

TABLE = "label_embed.table.weight"
DIGITS = [str(n) for n in range(10)]


def facts(names):
    return {"class_names": names, "codec": Pixels().spec}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    data = digits()
    trainer(folder, 5, [SaveCheckpoint(str(folder), every_n_steps=5)]).fit(module(data), data)
    return folder / "last.ckpt"


def fresh(**network):
    return module(digits(), seed=7, **network).network


def test_the_same_classes_keep_every_weight(checkpoint):
    loaded, network = load(checkpoint), fresh()
    said = start_from(network, loaded, facts(DIGITS))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.network.parameters(), strict=True))
    assert said == "model, diffusion and every weight are the checkpoint's (ema 0.9, step 5)"


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], list("abcdefghij"), DIGITS[::-1]], ids=["3", "10", "order"])
def test_other_classes_begin_afresh_and_nothing_else_does(checkpoint, names):
    """Other names are other classes, were they as many: label 0 is not what it was."""
    loaded = load(checkpoint)
    facts_fit = {"num_classes": len(names)}
    torch.manual_seed(7)
    network = type(loaded.network)(**loaded.network.arguments | facts_fit)
    before = network.state_dict()[TABLE].clone()
    said = start_from(network, loaded, facts(names))
    theirs = loaded.network.state_dict()
    for key, value in network.state_dict().items():
        if key != TABLE:
            assert torch.equal(value, theirs[key]), key
    assert torch.equal(network.state_dict()[TABLE][:-1], before[:-1])
    assert torch.equal(network.state_dict()[TABLE][-1], theirs[TABLE][-1])
    assert f"but the label table: its 10 classes become {len(names)}, whose rows begin afresh" in said


def test_weights_of_another_model_are_refused_with_the_differences(checkpoint):
    network = fresh(hidden_size=32, mlp="swiglu")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"finetune_from has other weights than the model: blocks\.0\.attention\."
    ) as e:
        start_from(network, load(checkpoint), facts(DIGITS))
    assert "16x16 -> 32x32" in str(e.value)
    assert "more" in str(e.value)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_two_overrides_fine_tune_on_ones_own_pictures(checkpoint, tree, tmp_path):  # noqa: F811
    """Model and diffusion come from the checkpoint; nobody retypes them."""
    pictures = ["data=folder", f"data.root={tree}", "data.image_size=8", "data.channels=1", "data.batch_size=4"]
    short = ["debug=fast", "callbacks.preview.classes=3", f"hydra.run.dir={tmp_path}/run"]
    said = run("train.py", f"finetune_from={checkpoint}", *pictures, *short)
    assert (
        f"finetune_from={checkpoint}: model, diffusion and every weight are the checkpoint's (ema 0.9, step 5) but"
        in said
    )
    assert "its 10 classes become 3" in said
    tuned, start = load(tmp_path / "run" / "checkpoints" / "last.ckpt"), load(checkpoint)
    assert tuned.class_names == ["ant", "bee", "cat"]
    assert tuned.metadata.network == {**start.metadata.network, "num_classes": 3}
    assert tuned.metadata.path == start.metadata.path
    assert tuned.metadata.config["model"]["hidden_size"] == 16


def test_another_resolution_is_told(checkpoint):
    loaded, data = load(checkpoint), digits()
    facts = {**data.facts, "image_size": 16}
    larger = DiT(**loaded.network.arguments | {"image_size": 16})
    assert "trained at image_size=8, this run is at 16: positions are made anew" in start_from(larger, loaded, facts)
    assert "image_size" not in start_from(DiT(**loaded.network.arguments), loaded, data.facts)


@pytest.fixture(scope="module")
def learned_variance(tmp_path_factory):
    """A checkpoint of another schedule, kind and loss than the defaults."""
    folder = tmp_path_factory.mktemp("dit")
    data, path = digits(), DiscreteVP.cosine()
    objective = {"path": path, "kind": "v", "loss": HybridVLB(MSE("v"))}
    model = module(data, objective=objective, learn_variance=True, norm="rmsnorm")
    trainer(folder, 2, [SaveCheckpoint(str(folder), every_n_steps=2)]).fit(model, data)
    return folder / "last.ckpt"


def test_whatever_follows_model_and_diffusion_follows_those_of_the_checkpoint(learned_variance, tmp_path):
    """The loss compares in the checkpoint's kind, on its path; a resumed run does not begin anew."""
    given = [f"finetune_from={learned_variance}", "loss=hybrid_vlb", "debug=fast", f"hydra.run.dir={tmp_path}"]
    run("train.py", *given)
    tuned = load(tmp_path / "checkpoints" / "last.ckpt")
    config = tuned.metadata.config
    assert config["loss"]["inner"]["space"] == tuned.metadata.kind == "v"
    assert tuned.metadata.path == DiscreteVP.cosine().spec
    assert config["model"]["norm"] == "rmsnorm"
    assert tuned.denoiser.learned_variance
    said = run("train.py", *given, f"resume={tmp_path}/checkpoints/last.ckpt", "trainer.max_steps=6")
    assert "step 6/6" in said
    assert "finetune_from" not in said


def test_classes_of_an_import_without_names_are_no_classes_of_ones_own(checkpoint):
    loaded = load(checkpoint)
    imported = replace(loaded, metadata=replace(loaded.metadata, pictures=None))
    assert "rows begin afresh" in start_from(fresh(), imported, facts(DIGITS))


def test_pictures_normalised_otherwise_are_refused(checkpoint):
    other = {"class_names": DIGITS, "codec": Pixels(0.2, 0.3).spec}
    with pytest.raises(ValueError, match=r"trained on pictures normalised by .*0\.5.*, these are by .*0\.3"):
        start_from(fresh(), load(checkpoint), other)
