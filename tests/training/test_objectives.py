"""Every objective through the real training: it learns, its checkpoint tells what it was, and it samples."""

import pytest
import torch

from dit.checkpoint import load
from dit.diffusion import (
    DiscreteVP,
    LinearFlow,
    LogitNormal,
    LogNormalSigma,
    LogUniformSigma,
    Uniform,
    VarianceExploding,
)
from dit.objectives import MSE, HybridVLB, LearnedUncertainty, MinSNR
from dit.solvers import CFG, Ancestral, Heun, Sampler
from dit.training import SaveCheckpoint
from tests.training.tiny import assert_same, digits, module, state, trainer

TABLE = DiscreteVP.linear()


def objective(path, kind, loss, sigma_data=1.0):
    return {"path": path, "kind": kind, "loss": loss, "sigma_data": sigma_data}


OBJECTIVES = {
    "min_snr": (objective(TABLE, "eps", MinSNR(5.0)), Uniform(), {}),
    "soft_min_snr": (objective(TABLE, "v", MinSNR(4.0, soft=True)), Uniform(), {}),
    "edm": (objective(VarianceExploding(), "edm", MSE("edm"), 0.5), LogNormalSigma(), {}),
    "edm_weight_on_flow": (objective(LinearFlow(), "velocity", MSE("edm")), LogUniformSigma(), {}),
    "learned_uncertainty": (objective(LinearFlow(), "velocity", None), LogitNormal(), {}),
    "shifted": (objective(LinearFlow(), "velocity", MSE("v")), LogitNormal(shift=2.0), {}),
    "jit": (objective(LinearFlow(), "x0", MSE("velocity", max_gain=20.0)), LogitNormal(0.8, 0.8), {}),
    "hybrid_vlb": (objective(TABLE, "eps", HybridVLB(MSE("eps"))), Uniform(), {"learn_variance": True}),
}


def build(name):
    what, times, network = OBJECTIVES[name]
    loss = what["loss"] or LearnedUncertainty(MSE("velocity"))  # it learns: a fresh one each run
    data = digits()
    return data, module(data, times=times, objective={**what, "loss": loss}, hidden_size=32, patch_size=2, **network)


def validation_loss(model, data):
    x0, labels = data.validation.tensors(128)
    losses = model.level_loss(model.denoiser, data.codec.encode(x0), labels, torch.arange(len(x0)))
    return float(torch.stack(list(losses.values())).mean())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_and_samples(name, tmp_path):
    data, model = build(name)
    before = validation_loss(model, data)
    trainer(tmp_path, 30, [SaveCheckpoint(str(tmp_path), every_n_steps=30)]).fit(model, data)
    assert validation_loss(model, data) < 0.9 * before
    loaded = load(tmp_path / "last.ckpt", "raw")
    assert loaded.denoiser.sigma_data == model.denoiser.sigma_data
    assert loaded.denoiser.learned_variance is (name == "hybrid_vlb")
    solver = Ancestral("learned") if name == "hybrid_vlb" else Heun()
    (batch,) = Sampler(steps=4, solver=solver, guidance=CFG(1.5)).batches(loaded.denoiser, [1, 2], loaded.shape)
    assert batch.x0.shape == (2, 1, 8, 8)
    assert batch.x0.isfinite().all()


def test_learned_variance_leaves_where_it_began(tmp_path):
    """Untrained it is the middle of small and large; the bound moves it, and the mean's loss alone would not."""
    data, model = build("hybrid_vlb")
    trainer(tmp_path, 40).fit(model, data)
    rows = model.network.final.linear.weight.unflatten(0, (4, 2)).abs().amax((0, 2))  # mean, variance
    assert rows[1] > 0.01


def test_a_learned_uncertainty_trains_and_resumes_to_the_bit(tmp_path):
    whole = build("learned_uncertainty")
    run = trainer(tmp_path / "whole", 12)
    run.fit(whole[1], whole[0])
    first = build("learned_uncertainty")
    save = [SaveCheckpoint(str(tmp_path), every_n_steps=7)]
    trainer(tmp_path / "a", 7, save).fit(first[1], first[0])
    second = build("learned_uncertainty")
    resumed = trainer(tmp_path / "b", 12)
    resumed.fit(second[1], second[0], ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert_same(state(whole[1], run), state(second[1], resumed))
    moved = whole[1].loss.weights
    assert moved.abs().max() > 0
    assert torch.equal(moved, second[1].loss.weights)


def test_resuming_with_a_loss_of_other_weights_is_refused(tmp_path):
    data, model = build("edm_weight_on_flow")
    trainer(tmp_path, 2, [SaveCheckpoint(str(tmp_path), every_n_steps=2)]).fit(model, data)
    data, model = build("learned_uncertainty")
    message = (
        "cannot resume: weights of the checkpoint's loss are none, of the configuration's frequencies, phases, weights"
    )
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, 4).fit(model, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("loss", "learn_variance", "message"),
    [
        (MSE("eps"), True, r"model\.learn_variance=true needs loss=hybrid_vlb; no other trains that half"),
        (
            HybridVLB(MSE("eps")),
            False,
            r"loss=hybrid_vlb trains a variance and needs model\.learn_variance",
        ),
    ],
)
def test_a_doubled_output_and_the_loss_that_trains_it_go_together(loss, learn_variance, message):
    with pytest.raises(ValueError, match=message):
        module(digits(), objective=objective(TABLE, "eps", loss), learn_variance=learn_variance)


def test_times_that_the_path_does_not_reach_are_refused_before_training():
    with pytest.raises(ValueError, match="times reaches beyond the path"):
        module(digits(), times=Uniform(shift=3.0), objective=objective(TABLE, "eps", MSE("eps")))
