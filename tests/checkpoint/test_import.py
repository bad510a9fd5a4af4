"""Checkpoints of others: the imported denoiser is the network they were trained with."""

import argparse
import json

import diffusers
import pytest
import torch

from dit.checkpoint import import_checkpoint, import_loaded
from dit.diffusion import DiscreteVP
from dit.solvers import CFG, Ancestral, make_grid, sample
from dit.solvers.start import FromState
from tests.checkpoint.foreign import (
    JIT,
    LABELS,
    MODERN,
    T,
    W,
    X,
    as_diffusers,
    forward,
    saved,
    their_transformer,
    weights,
)


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_dit_is_diffusers_dit(tmp_path):
    w = weights(doubled=True)
    theirs = their_transformer(as_diffusers(w), original=True)
    ours = import_checkpoint(saved(tmp_path, w), "dit", num_heads=2)
    with torch.no_grad():
        expected = theirs(X, 1000 * T - 1, LABELS).sample
        assert_same(ours.network(X, 1000 * T - 1, LABELS), expected)
        said = ours(X, T, LABELS)
    assert_same(torch.cat([said.eps, said.variance], 1), expected)
    assert expected.std() > 0.3
    assert said.kind == "eps"
    assert ours.null_label == 5


def test_a_dit_is_the_paper_s(tmp_path):
    w = weights(doubled=True, patch=4, side=2)
    ours = import_checkpoint(saved(tmp_path, w), "dit", num_heads=2)
    assert_same(ours.network(X, 1000 * T - 1, LABELS), forward(w, X, 1000 * T - 1, LABELS))


@pytest.mark.parametrize("norm_eps", [1e-6, 1e-5, 1e-2])
@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_of_diffusers_is_its_network(tmp_path, norm_eps, safe):
    theirs = their_transformer(original=False, norm_eps=norm_eps)
    theirs.save_pretrained(tmp_path / "model", safe_serialization=safe)
    ours = import_checkpoint(tmp_path / "model", "diffusers")
    with torch.no_grad():
        assert_same(ours.network(X, 1000 * T - 1, LABELS), theirs(X, 1000 * T - 1, LABELS).sample)


@pytest.mark.parametrize(
    ("scheduler", "path", "kind"),
    [
        (diffusers.DDIMScheduler(), DiscreteVP.linear(), "eps"),
        (
            diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012),
            DiscreteVP.scaled_linear(),
            "eps",
        ),
        (
            diffusers.DDIMScheduler(
                100, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True
            ),
            DiscreteVP.cosine(100, zero_terminal_snr=True),
            "v",
        ),
        (
            diffusers.DDIMScheduler(3, trained_betas=[0.1, 0.2, 0.3], prediction_type="sample"),
            DiscreteVP([0.1, 0.2, 0.3]),
            "x0",
        ),
    ],
)
def test_a_pipeline_says_path_kind_classes_and_scale(tmp_path, scheduler, path, kind):
    their_transformer(original=False).save_pretrained(tmp_path / "transformer")
    scheduler.save_pretrained(tmp_path / "scheduler")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"scaling_factor": 0.5}')
    names = ["tench", "shark", "hen", "newt", "toad, frog"]
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    loaded = import_loaded(tmp_path, "diffusers")
    assert loaded.metadata.path == path.spec
    assert loaded.denoiser.path.spec == path.spec
    assert loaded.denoiser.kind == kind
    assert loaded.class_names == names
    assert loaded.metadata.codec == {"name": "Latents", "scale": 0.5}


def test_guided_learned_sampling_is_diffusers_step_by_step(tmp_path):
    """DiT as it was published: guidance on three channels, learned variance, 250 of 1,000 steps."""
    steps = 250
    w = weights(doubled=True)
    theirs = their_transformer(as_diffusers(w), original=True).double()
    ours = import_checkpoint(saved(tmp_path, w), "dit", num_heads=2)
    ours.network.double()
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False, timestep_spacing="linspace")
    scheduler.set_timesteps(steps)
    # All in float64 on both sides: the first steps divide by 0.006, which makes much of a last digit.
    scheduler.alphas_cumprod = ours.path.coefficients(torch.arange(1, 1001, dtype=torch.float64) / 1000).alpha ** 2
    noise, labels = X[:2].double(), LABELS[:2]
    x, trajectory, generator = noise, [], torch.Generator().manual_seed(3)
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            rows = torch.cat([x, x]), timestep.expand(4), torch.cat([labels, torch.full_like(labels, 5)])
            cond, uncond = theirs(*rows).sample.chunk(2)
        guided = torch.cat([uncond[:, :3] + 4 * (cond[:, :3] - uncond[:, :3]), cond[:, 3:]], 1)
        x = scheduler.step(guided, timestep, x, generator=generator).prev_sample
        trajectory.append(x)
    grid, seen = make_grid(ours.path, steps, "linspace"), []
    generator = torch.Generator().manual_seed(3)
    sample(
        ours,
        None,
        labels,
        grid=grid,
        solver=Ancestral("learned"),
        guidance=CFG(4.0, channels=3),
        start=FromState(noise),
        step_noise=lambda: torch.randn(noise.shape, generator=generator, dtype=noise.dtype),
        on_step=lambda context, x: seen.append(x),
    )
    assert len(seen) == len(trajectory) == steps
    torch.testing.assert_close(torch.stack(seen), torch.stack(trajectory), rtol=0, atol=1e-7)


@pytest.mark.parametrize("doubled", [False, True])
def test_a_sit_is_turned_around(tmp_path, doubled):
    w = weights(doubled=doubled)
    ours = import_checkpoint(saved(tmp_path, w), "sit", num_heads=2)
    velocity = forward(w, X, 1 - T, LABELS)[:, :4]  # its time is 1 at data, and its velocity points there
    said = ours(X, T, LABELS)
    assert_same(said.velocity, -velocity)
    assert_same(said.x0[1], X[1] + 0.5 * velocity[1])
    assert not ours.learned_variance


@pytest.mark.parametrize(
    "axes",
    [
        MODERN,
        MODERN | {"normed": True},
        {"gated": True},
        {"gated": True, "ratio": 3.3},
        {"ratio": 2.5},
        {"rms": True, "doubled": True},
        {"rope": True},
        MODERN | {"patch": 1, "side": 8, "width": 16},
    ],
    ids=str,
)
def test_a_lightningdit_with_any_of_its_axes(tmp_path, axes):
    w = weights(**axes)
    ours = import_checkpoint(saved(tmp_path, {"ema": w, "model": {}, "opt": {}}), "lightningdit", num_heads=2)
    velocity = forward(w, X, 1 - T, LABELS, rope="rope" in axes)[:, :4]
    assert_same(ours(X, T, LABELS).velocity, -velocity)


@pytest.mark.parametrize(
    ("depth", "tokens", "begin", "told"),
    [(2, 3, 1, {"class_tokens_from": 1}), (12, 2, 4, {}), (2, 0, 0, {})],
)
def test_a_jit(tmp_path, depth, tokens, begin, told):
    w = weights(**JIT, depth=depth, tokens=tokens)
    tables = {name: w.pop(name) for name in list(w) if name.startswith("feat_rope.")}
    contents = {"model_ema1": {f"net.{name}": tensor for name, tensor in w.items()}, "model": {}, "epoch": 3}
    ours = import_checkpoint(saved(tmp_path, contents), "jit", **told)  # heads: from the norm of queries
    x0 = forward(w, X[:, :3], 1 - T, LABELS, rope=True, tokens_from=begin)
    assert_same(ours(X[:, :3], T, LABELS).x0, x0)
    if tokens:
        for name, table in tables.items():
            still = torch.ones(tokens, 12) if "cos" in name else torch.zeros(tokens, 12)
            w[name.replace("feat_rope", "feat_rope_incontext")] = torch.cat([still, table])
    again = import_checkpoint(saved(tmp_path, w | tables), "jit", **told)
    assert torch.equal(again(X[:, :3], T, LABELS).x0, ours(X[:, :3], T, LABELS).x0)


def test_training_checkpoints_hold_both_weights_and_what_they_were_called_with(tmp_path):
    ema, raw = weights(seed=1), weights(seed=2)
    contents = {
        "model": {f"module.{k}": v for k, v in raw.items()},
        "ema": {f"_orig_mod.{k}": v for k, v in ema.items()},
    }
    file = saved(tmp_path, contents | {"opt": {"state": {}}, "args": argparse.Namespace(lr=1e-4)})
    for source in ("dit", "sit"):
        for weights_, w in (("ema", ema), ("raw", raw)):
            loaded = import_loaded(file, source, weights=weights_, num_heads=2)
            table = loaded.network.state_dict()["label_embed.table.weight"]
            assert torch.equal(table, w["y_embedder.embedding_table.weight"])
            assert loaded.weights == weights_
    assert import_loaded(saved(tmp_path, ema), "dit", num_heads=2).weights == "as given"
    with pytest.raises(ValueError, match=r"weights=raw is not in .*foreign\.pt; it holds weights as given"):
        import_loaded(saved(tmp_path, ema), "dit", weights="raw", num_heads=2)
    with pytest.raises(ValueError, match=r"weights=ema is not in .*foreign\.pt; it holds raw"):
        import_loaded(saved(tmp_path, {"model": raw}), "dit", num_heads=2)


def test_the_metadata_of_an_imported_checkpoint(tmp_path):
    loaded = import_loaded(saved(tmp_path, weights(doubled=True)), "dit", num_heads=2, class_names=list("abcde"))
    assert loaded.metadata.network == loaded.network.spec
    assert loaded.metadata.path == DiscreteVP.linear().spec
    assert loaded.metadata.kind == "eps"
    assert loaded.metadata.config == {"imported_from": "dit"}
    assert (loaded.metadata.image_size, loaded.metadata.channels, loaded.metadata.num_classes) == (8, 4, 5)
    assert loaded.metadata.class_names == list("abcde")
    assert loaded.metadata.codec == {"name": "Latents", "scale": 0.18215}
    assert loaded.metadata.pictures is None
    assert loaded.labels("b", 2) == [1, 1]
    assert loaded.shape == (4, 8, 8)
    assert not loaded.network.training
    sit = import_loaded(saved(tmp_path, weights(width=384, depth=1)), "sit")
    assert sit.metadata.path == {"name": "LinearFlow", "time_scale": 1.0, "data_time": True}
    assert sit.metadata.network["num_heads"] == 6
    assert sit.class_names == ["0", "1", "2", "3", "4"]
    for channels in (4, 32):
        w = weights(channels=channels, width=16, gated=True)
        lightning = import_loaded(saved(tmp_path, w), "lightningdit", num_heads=2)
        assert lightning.metadata.codec == {"name": "Latents", "scale": None}
        assert lightning.metadata.network["mlp_ratio"] == 4
    jit = import_loaded(saved(tmp_path, weights(**JIT)), "jit")
    assert jit.metadata.codec == {"name": "Pixels", "mean": 0.5, "std": 0.5}
    assert jit.metadata.kind == "x0"


def test_a_network_whose_labels_were_never_dropped_has_no_null_label(tmp_path):
    w = weights()
    loaded = import_loaded(saved(tmp_path, w), "dit", num_heads=2, num_classes=6)
    assert loaded.denoiser.null_label is None
    assert loaded.network.num_classes == 6
    assert_same(loaded.network(X, 1000 * T - 1, LABELS), forward(w, X, 1000 * T - 1, LABELS))


def test_early_folders_of_diffusers(tmp_path):
    """They had another class name, no norm_eps, and the table of positions among the weights."""
    theirs = their_transformer(original=False, norm_eps=1e-5)
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    said = json.loads((tmp_path / "config.json").read_text())
    del said["norm_eps"]
    (tmp_path / "config.json").write_text(json.dumps(said | {"_class_name": "Transformer2DModel"}))
    state = theirs.state_dict() | {"pos_embed.pos_embed": W["pos_embed"]}
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    ours = import_checkpoint(tmp_path, "diffusers")
    with torch.no_grad():
        assert_same(ours.network(X, 1000 * T - 1, LABELS), theirs(X, 1000 * T - 1, LABELS).sample)
    torch.save(state | {"pos_embed.pos_embed": W["pos_embed"] + 1}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pos_embed\.pos_embed is not the fixed table"):
        import_checkpoint(tmp_path, "diffusers")
