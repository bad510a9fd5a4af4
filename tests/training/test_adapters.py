"""What is put into a network between building and training: the proof is a frozen trunk, and a part that is added."""

from dataclasses import dataclass

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from dit.checkpoint import export_safetensors, load
from dit.model.adapters import Adapter, Freeze, adapter_from_spec, register_adapter, trained
from dit.training import PowerEma, SaveCheckpoint, SaveSnapshots
from dit.training.snapshots import list_snapshots
from tests.training.tiny import assert_same, digits, module, state, trainer


@register_adapter("low_rank_head")
@dataclass(frozen=True)
class LowRank(Adapter):
    """A LoRA of the final layer, in a test's few lines, which begins at zero."""

    rank: int = 2

    def apply(self, network):
        network.requires_grad_(False)
        linear = network.final.linear
        linear.a = nn.Parameter(torch.full((self.rank, linear.in_features), 0.1))
        linear.b = nn.Parameter(torch.zeros(linear.out_features, self.rank))
        linear.register_forward_hook(lambda layer, given, out: out + given[0] @ layer.a.T @ layer.b.T)


def fit(folder, steps, resume=None, adapter=None, callbacks=(), **changes):
    data = digits(16)
    model = module(data, adapter=adapter, **changes)
    run = trainer(folder, steps, [*callbacks, SaveCheckpoint(str(folder), 3)])
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, run


@pytest.mark.parametrize("adapter", [Freeze(["final"]), LowRank()], ids=["freeze", "low rank"])
def test_only_what_is_trained_moves_is_averaged_and_is_the_optimisers(tmp_path, adapter):
    model, run = fit(tmp_path, 3, adapter=adapter)
    fresh = module(digits(), adapter=adapter)
    names = set(trained(model.network))
    before = fresh.network.state_dict()
    moved = {name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert moved <= names == set(model.ema.averages["0.9"])
    held = [parameter for group in run.optimizers[0].param_groups for parameter in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in trained(model.network).values()}
    loaded = load(tmp_path / "last.ckpt")
    assert loaded.metadata.adapters == [adapter.spec]
    for name, value in loaded.network.state_dict().items():
        expected = model.ema.averages["0.9"][name] if name in names else model.network.state_dict()[name]
        assert torch.equal(value, expected), name
    export_safetensors(loaded, tmp_path / "x.safetensors")
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor(0.5), torch.tensor([1, 2])
    answers = [each.denoiser(x, t, labels).native for each in (loaded, load(tmp_path / "x.safetensors"))]
    assert torch.equal(*answers)


def test_an_adapted_run_resumes_bit_for_bit_and_under_no_other_adapter(tmp_path):
    straight = fit(tmp_path / "a", 6, adapter=LowRank())
    fit(tmp_path / "b", 3, adapter=LowRank())
    file = tmp_path / "b" / "last.ckpt"
    assert_same(state(*straight), state(*fit(tmp_path / "c", 6, file, adapter=LowRank())))
    with pytest.raises(ValueError, match=r"cannot resume: the checkpoint's adapters is .*'low_rank_head', 'rank': 2"):
        fit(tmp_path / "d", 6, file, adapter=Freeze(["final"]))


def test_snapshots_of_a_frozen_trunk_are_whole(tmp_path):
    ema, save = PowerEma([0.05, 0.1]), SaveSnapshots(str(tmp_path / "ema"), 3)
    model, _ = fit(tmp_path / "checkpoints", 6, adapter=Freeze(["final"]), ema=ema, callbacks=[save])
    snapshot = load(list_snapshots(tmp_path / "ema")[-1].file)
    frozen = "patch_embed.weight"
    assert torch.equal(snapshot.network.state_dict()[frozen], model.network.state_dict()[frozen])


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"name": "nothing"}, "adapter 'nothing' is unknown; known are freeze"),
        ({"name": "freeze", "train": 3}, "train of adapter freeze must be a list, each a string, got 3"),
        ({"name": "freeze", "wings": 2}, "adapter freeze does not take 'wings'"),
    ],
)
def test_specs_of_adapters_are_data(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        adapter_from_spec(spec)


def test_metadata_are_plain_before_the_first_step():
    with pytest.raises(ValueError, match=r"the metadata's adapters must be plain values, got .*ListConfig|\['final'\]"):
        module(digits(), adapter=Freeze(OmegaConf.create(["final"])))


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"train names wings, which begins no weight of the network of patch_embed"):
        module(digits(), adapter=Freeze(["wings"]))
