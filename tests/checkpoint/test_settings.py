"""Options that checkpoints were trained with: each line of the table in docs/checkpoints.md, honoured or refused."""

import argparse
import json
import math
import warnings

import pytest
import torch

from dit.checkpoint import export_safetensors, import_checkpoint, import_loaded, load
from dit.checkpoint.shapes import Hints, arguments_of
from dit.diffusion import DiscreteVP
from dit.solvers import Euler, make_grid, sample
from tests.checkpoint.foreign import JIT, LABELS, MODERN, W, X, forward, saved, weights

T = torch.tensor([0.2, 0.5, 0.8])
HEADS = {"num_heads": 2}
# The options of the published training scripts with their defaults.
DIT = {
    "data_path": "x", "results_dir": "results", "model": "DiT-XL/2", "image_size": 256, "num_classes": 5,
    "epochs": 1400, "global_batch_size": 256, "global_seed": 0, "vae": "ema", "num_workers": 4, "log_every": 100,
    "ckpt_every": 50_000, "feature_path": "features",
}  # fmt: skip
SIT = DIT | {
    "model": "SiT-XL/2", "path_type": "Linear", "prediction": "velocity", "loss_weight": None, "sample_eps": None,
    "train_eps": None, "sample_every": 10_000, "cfg_scale": 4.0, "wandb": False, "ckpt": None,
}  # fmt: skip
REPA = {
    "output_dir": "exps", "exp_name": "x", "logging_dir": "logs", "report_to": "wandb", "sampling_steps": 10_000,
    "resume_step": 0, "model": "SiT-XL/2", "num_classes": 5, "encoder_depth": 8, "fused_attn": True, "qk_norm": False,
    "data_dir": "x", "resolution": 256, "batch_size": 256, "allow_tf32": True, "mixed_precision": "fp16",
    "epochs": 1400, "max_train_steps": 400_000, "checkpointing_steps": 50_000, "gradient_accumulation_steps": 1,
    "learning_rate": 1e-4, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_weight_decay": 0.0, "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0, "seed": 0, "num_workers": 4, "path_type": "linear", "prediction": "v", "cfg_prob": 0.1,
    "enc_type": "dinov2-vit-b", "proj_coeff": 0.5, "weighting": "uniform",
}  # fmt: skip
LIGHTNING = {
    "ckpt_path": "x",
    "data": {"data_path": "x", "fid_reference_file": "x", "image_size": 256, "num_classes": 5, "num_workers": 8,
             "latent_norm": True, "latent_multiplier": 1.0},
    "vae": {"model_name": "vavae_f16d32", "downsample_ratio": 16},
    "model": {"model_type": "LightningDiT-XL/1", "use_qknorm": False, "use_swiglu": True, "use_rope": True,
              "use_rmsnorm": True, "wo_shift": False, "in_chans": 4, "use_checkpoint": True},
    "train": {"max_steps": 80_000, "global_batch_size": 1024, "global_seed": 0, "output_dir": "x", "exp_name": "x",
              "ckpt": None, "log_every": 100, "ckpt_every": 20_000, "weight_init": "x", "resume": True,
              "use_checkpoint": True},
    "optimizer": {"lr": 2e-4, "beta2": 0.95, "max_grad_norm": 1.0},
    "transport": {"path_type": "Linear", "prediction": "velocity", "loss_weight": None, "sample_eps": None,
                  "train_eps": None, "use_lognorm": True, "use_cosine_loss": True},
    "sample": {"mode": "ODE", "sampling_method": "euler", "atol": 1e-6, "rtol": 1e-3, "reverse": False,
               "likelihood": False, "num_sampling_steps": 250, "cfg_scale": 10.0, "per_proc_batch_size": 4,
               "fid_num": 50_000, "cfg_interval_start": 0.125, "timestep_shift": 0.3},
}  # fmt: skip
JIT_ARGS = {
    "model": "JiT-B/16", "img_size": 256, "attn_dropout": 0.0, "proj_dropout": 0.0, "epochs": 200, "warmup_epochs": 5,
    "batch_size": 128, "lr": 1e-4, "blr": 5e-5, "min_lr": 0.0, "lr_schedule": "constant", "weight_decay": 0.0,
    "ema_decay1": 0.9999, "ema_decay2": 0.9996, "P_mean": -0.8, "P_std": 0.8, "noise_scale": 1.0, "t_eps": 0.05,
    "label_drop_prob": 0.1, "seed": 0, "start_epoch": 0, "num_workers": 12, "pin_mem": True, "sampling_method": "heun",
    "num_sampling_steps": 50, "cfg": 1.0, "interval_min": 0.0, "interval_max": 1.0, "num_images": 50_000,
    "eval_freq": 40, "online_eval": False, "evaluate_gen": False, "gen_bsz": 256, "data_path": "x", "class_num": 5,
    "output_dir": "x", "resume": "", "save_last_freq": 5, "log_freq": 100, "device": "cuda", "world_size": 8,
    "local_rank": -1, "dist_on_itp": False, "dist_url": "env://", "rank": 0, "gpu": 0, "distributed": True,
    "dist_backend": "nccl",
}  # fmt: skip


def training(folder, w, options, entry="args", **more):
    """A training checkpoint that says `options` of itself; a dict of `args` in a Namespace, as scripts have it."""
    held = argparse.Namespace(**options) if entry == "args" and isinstance(options, dict) else options
    average = "model_ema1" if any(name.endswith("x_embedder.proj1.weight") for name in w) else "ema"
    return saved(folder, {"model": {}, average: w, "opt": {}, entry: held} | more)


def close(ours, theirs):
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=2e-5, atol=2e-5)


def data_and_noise(path_type, prediction, said, x, s, scale=1.0, sign=1):
    """x0 and eps from a network's answer at its own time s, 1 at data (sign 1) or at noise (sign -1)."""
    s = s.double().requires_grad_()
    at_data = s if sign == 1 else 1 - s
    if path_type.lower() == "linear":
        alpha, sigma = at_data, scale * (1 - at_data)
    elif path_type in ("GVP", "cosine"):
        alpha, sigma = torch.sin(math.pi / 2 * at_data), torch.cos(math.pi / 2 * at_data)
    else:  # Song et al. 2021b, eq. 32: beta from 0.1 to 20
        alpha = torch.exp(-0.25 * (1 - at_data) ** 2 * 19.9 - 0.5 * (1 - at_data) * 0.1)
        sigma = (1 - alpha**2).sqrt()
    d_alpha, d_sigma = (torch.autograd.grad(f.sum(), s, retain_graph=True)[0] for f in (alpha, sigma))
    alpha, sigma, d_alpha, d_sigma = (f.detach()[:, None, None, None] for f in (alpha, sigma, d_alpha, d_sigma))
    x, said = x.double(), said.double()
    match prediction:
        case "velocity" | "v":
            determinant = alpha * d_sigma - sigma * d_alpha
            return (d_sigma * x - sigma * said) / determinant, (alpha * said - d_alpha * x) / determinant
        case "noise":
            return (x - sigma * said) / alpha, said
        case "score":
            return (x + sigma**2 * said) / alpha, -sigma * said
        case "x0":
            return said, (x - alpha * said) / sigma


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
@pytest.mark.parametrize("path_type", ["Linear", "GVP", "VP"])
@pytest.mark.parametrize("source", ["sit", "lightningdit"])
def test_path_and_prediction_of_sit_and_lightningdit(tmp_path, source, path_type, prediction):
    options, w = {"path_type": path_type, "prediction": prediction}, weights(doubled=True)
    if source == "sit":
        file = training(tmp_path, w, SIT | options)
    else:
        file = training(tmp_path, w, {"model": {}, "transport": options}, entry="config")
    ours = import_checkpoint(file, source, **HEADS)
    said = forward(w, X, 1 - T, LABELS)[:, :4]
    x0, eps = data_and_noise(path_type, prediction, said, X, 1 - T)
    prediction = ours(X, T, LABELS)
    close(prediction.x0, x0)
    close(prediction.eps, eps)


@pytest.mark.parametrize("path_type", ["linear", "cosine"])
def test_repa_counts_time_as_we_do_and_its_projectors_are_left_out(tmp_path, path_type):
    w = weights(normed=True)
    for name in [name for name in w if "attn.qkv." in name]:
        w[name] = w[name] * 0.01  # so that the epsilon of the norms matters
    projectors = {f"projectors.0.{n}.weight": X for n in (0, 2, 4)}
    file = training(tmp_path, w | projectors, REPA | {"path_type": path_type, "qk_norm": True})
    with pytest.warns(UserWarning, match=r"left out 3 tensors projectors\.\* of .*foreign\.pt, which only training"):
        loaded = import_loaded(file, "repa")  # heads: from the norm of queries
    x0, eps = data_and_noise(path_type, "v", forward(w, X, T, LABELS), X, T, sign=-1)
    prediction = loaded.denoiser(X, T, LABELS)
    close(prediction.x0, x0)
    close(prediction.eps, eps)
    assert loaded.network.arguments["qk_norm_eps"] == 1e-5
    assert loaded.metadata.codec == {"name": "Latents", "scale": 0.18215}
    assert loaded.metadata.config == {"imported_from": "repa"}


def test_the_blocks_of_repa_s_first_release_follow_on(tmp_path):
    w = weights(depth=3)
    first = {
        name.replace("blocks.1.", "decoder_blocks.0.").replace("blocks.2.", "decoder_blocks.1."): w[name] for name in w
    }
    assert first.keys() != w.keys()
    ours = import_checkpoint(saved(tmp_path, first), "repa", **HEADS)
    assert torch.equal(
        ours(X, T, LABELS).native, import_checkpoint(saved(tmp_path, w), "repa", **HEADS)(X, T, LABELS).native
    )


@pytest.mark.parametrize(("noise_scale", "dropout"), [(2.0, 0.0), (1, 0.1), (0.5, 0.3)])
def test_noise_scale_and_label_dropout_of_jit(tmp_path, noise_scale, dropout):
    w = weights(**JIT)
    options = JIT_ARGS | {"noise_scale": noise_scale, "label_drop_prob": dropout}
    ours = import_checkpoint(training(tmp_path, {f"net.{name}": t for name, t in w.items()}, options), "jit")
    x = X[:, :3]
    x0, eps = data_and_noise("linear", "x0", forward(w, x, 1 - T, LABELS, rope=True), x, 1 - T, noise_scale)
    prediction = ours(x, T, LABELS)
    close(prediction.x0, x0)
    close(prediction.eps, eps)
    assert ours.null_label == (5 if dropout else None)
    # One Euler step from pure noise arrives at what is predicted there: of noise that was multiplied before.
    out = sample(ours, x, LABELS, grid=make_grid(ours.path, 1), solver=Euler())
    torch.testing.assert_close(
        out.x0, forward(w, noise_scale * x, torch.zeros(3), LABELS, rope=True), rtol=0, atol=1e-5
    )


def test_the_noise_scale_of_a_jit_that_does_not_say_it(tmp_path):
    def jit(size):
        return saved(tmp_path, weights(**JIT | {"rope": False}, width=4 * 8, patch=64, side=size // 64))

    assert import_checkpoint(jit(256), "jit").path.noise_scale == 1
    with pytest.warns(UserWarning, match="does not say its noise_scale: 2 is taken, as published at 512 pixels"):
        assert import_loaded(jit(512), "jit").denoiser.path.noise_scale == 2
    assert import_checkpoint(jit(512), "jit", settings={"noise_scale": 1.0}).path.noise_scale == 1
    with pytest.raises(ValueError, match="noise_scale, and none was published at 1024 pixels; give settings"):
        import_checkpoint(jit(1024), "jit")


@pytest.mark.parametrize("axes", [{}, {"rms": True}], ids=["layernorm", "rmsnorm"])
def test_the_epsilon_of_lightningdit_s_normalised_queries(tmp_path, axes):
    w = weights(normed=True, **axes)
    for name in [name for name in w if "attn.qkv." in name]:
        w[name] = w[name] * 0.01
    ours = import_checkpoint(saved(tmp_path, w), "lightningdit")
    torch.testing.assert_close(ours(X, T, LABELS).velocity, -forward(w, X, 1 - T, LABELS), rtol=0, atol=1e-5)


def test_a_lightningdit_without_shifts(tmp_path):
    w = weights(**MODERN, shifts=False)
    ours = import_checkpoint(saved(tmp_path, w), "lightningdit", **HEADS)
    torch.testing.assert_close(ours(X, T, LABELS).velocity, -forward(w, X, 1 - T, LABELS, rope=True), rtol=0, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"shape of blocks\.0\.adaLN_modulation\.1\.weight is \[96, 24\], expected \[144"
    ):
        import_checkpoint(saved(tmp_path, weights(shifts=False)), "sit", **HEADS)


def test_rotation_of_lightningdit_whose_tables_are_not_in_the_file(tmp_path):
    w = weights(**MODERN)
    tables = {name: w.pop(name) for name in list(w) if name.startswith("feat_rope.")}
    for rope in (True, False):
        file = training(tmp_path, w, {"model": {"use_rope": rope}}, entry="config")
        ours = import_checkpoint(file, "lightningdit", **HEADS)
        expected = -forward(w, X, 1 - T, LABELS, rope=rope)
        torch.testing.assert_close(ours(X, T, LABELS).velocity, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"is no LightningDiT: unknown feat_rope\.freqs_cos"):
        import_checkpoint(training(tmp_path, w | tables, {"use_rope": False}), "lightningdit", **HEADS)


def test_heads_from_tables_of_rotation_and_of_lightningdit_s_widths(tmp_path):
    w = weights(**MODERN, width=48, heads=4)
    ours = import_checkpoint(saved(tmp_path, w), "lightningdit")
    assert ours.network.arguments["num_heads"] == 4
    for width, heads in ((1536, 24), (1792, 28)):
        shapes = {"x_embedder.proj.weight": (width, 4, 1, 1), "pos_embed": (1, 16, width)}
        shapes |= {"blocks.0.mlp.w12.weight": (2 * (4 * width * 2 // 3), width)}
        shapes |= {"y_embedder.embedding_table.weight": (6, width), "final_layer.linear.weight": (4, width)}
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        axes = {"modern": True, "qk_norm": True, "position": None}
        assert arguments_of(tmp_path, "LightningDiT", tensors, Hints(), **axes)[0]["num_heads"] == heads


@pytest.mark.parametrize(
    ("data", "scale"),
    [
        ({"latent_norm": False, "latent_multiplier": 0.5}, 0.5),
        ({"data_path": "x"}, 0.18215),  # its default
        ({"latent_norm": True, "latent_multiplier": 0.5}, None),
        ({}, None),
    ],
)
def test_the_normalisation_of_lightningdit_s_latents(tmp_path, data, scale):
    file = training(tmp_path, weights(channels=32, width=16), {"data": data}, entry="config")
    normalisation = import_loaded(file, "lightningdit", **HEADS).metadata.codec
    assert normalisation == {"name": "Latents", "scale": scale}


@pytest.mark.parametrize(
    ("options", "path", "kind"),
    [
        ({}, DiscreteVP.linear(), "eps"),
        ({"diffusion_steps": 1000, "noise_schedule": "linear"}, DiscreteVP.linear(), "eps"),
        ({"noise_schedule": "squaredcos_cap_v2", "predict_xstart": True}, DiscreteVP.cosine(), "x0"),
        ({"noise_schedule": "squaredcos_cap_v2", "diffusion_steps": 100}, DiscreteVP.cosine(100), "eps"),
        ({"diffusion_steps": 100}, DiscreteVP(torch.linspace(1e-3, 0.2, 100, dtype=torch.float64).tolist()), "eps"),
    ],
)
def test_the_table_of_a_dit(tmp_path, options, path, kind):
    ours = import_checkpoint(training(tmp_path, W, options), "dit", **HEADS)
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    torch.testing.assert_close(ours.path.log_snr(t), path.log_snr(t), rtol=1e-9, atol=0)
    assert torch.equal(ours.path.network_time(t), path.network_time(t))
    assert ours.kind == kind
    assert options or ours.path.spec == DiscreteVP.linear().spec


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("sit", {"path_type": "Cosine"}, "path_type='Cosine', which cannot be imported; Linear or GVP or VP can"),
        ("sit", {"path_type": None}, "path_type=None, which"),
        ("sit", {"path_type": X}, "path_type=a Tensor, which"),
        ("sit", {"path_type": ["GVP"]}, "path_type=a list, which"),
        ("sit", {"path_type": "linear"}, "path_type='linear', which"),  # REPA's
        ("sit", {"prediction": "data"}, "prediction='data', which cannot be imported; velocity or noise or score can"),
        ("repa", {"path_type": "Linear"}, "path_type='Linear', which cannot be imported; linear or cosine can"),
        ("repa", {"prediction": "x"}, "prediction='x', which cannot be imported; v can"),
        ("lightningdit", {"transport": {"path_type": "OT"}}, "path_type='OT', which"),
        ("lightningdit", {"transport": {"prediction": 1}}, "prediction=1, which"),
        ("lightningdit", {"model": {"use_rope": "yes"}}, "use_rope='yes', which cannot be imported; true or false can"),
        ("lightningdit", {"data": {"latent_norm": 1}}, "latent_norm=1, which"),
        ("lightningdit", {"data": {"latent_multiplier": 0}}, "latent_multiplier=0, which"),
        ("jit", {"noise_scale": 0}, "noise_scale=0, which cannot be imported; a positive number can"),
        ("jit", {"noise_scale": float("nan")}, "noise_scale=nan, which"),
        ("jit", {"noise_scale": float("inf")}, "noise_scale=inf, which"),
        ("jit", {"noise_scale": "2"}, "noise_scale='2', which"),
        ("jit", {"noise_scale": True}, "noise_scale=True, which"),
        ("jit", {"noise_scale": None}, "noise_scale=None, which"),
        ("jit", {"label_drop_prob": 1.5}, "label_drop_prob=1.5, which cannot be imported; a number from 0 to 1 can"),
        ("jit", {"class_num": 9}, "num_classes=9 does not fit the 6 rows of the label table"),
        ("dit", {"noise_schedule": "cosine"}, "noise_schedule='cosine', which cannot be imported; linear or squared"),
        ("dit", {"predict_xstart": "no"}, "predict_xstart='no', which"),
        ("dit", {"diffusion_steps": 1.5}, "diffusion_steps=1.5, which cannot be imported; a whole number"),
        ("dit", {"diffusion_steps": 1}, "steps of a beta table must be a whole number from 2 to 1,000,000, got 1"),
        ("dit", {"num_classes": 9}, "num_classes=9 does not fit the 6 rows of the label table"),
        ("sit", {"num_classes": "five"}, "num_classes='five', which"),
        ("sit", {"a": {"path_type": "VP"}, "b": {"path_type": "GVP"}}, "has more than one value of path_type"),
        ("sit", [1, 2], "has args that are no named options; save its weights alone and give settings"),
        ("sit", "path_type=VP", "has args that are no named options"),
        ("sit", {"path_type": "\x1b[2J" + "x" * 999}, r"path_type='\\x1b\[2Jx{40,60}\.\.\., which"),
    ],
)
def test_options_that_cannot_be_expressed_are_refused(tmp_path, source, options, message):
    told = {} if source == "jit" else HEADS
    with pytest.raises(ValueError, match=message) as error:
        import_checkpoint(training(tmp_path, weights(**JIT) if source == "jit" else W, options), source, **told)
    assert "\n" not in str(error.value)


PUBLISHED = {"dit": DIT, "sit": SIT, "repa": REPA, "lightningdit": LIGHTNING, "jit": JIT_ARGS}


@pytest.mark.parametrize("source", PUBLISHED)
def test_published_options_are_known(tmp_path, source):
    """In a Namespace, in a dict and in JSON's types: no warning, and what a state dict alone would give."""
    options, entry = PUBLISHED[source], "config" if source == "lightningdit" else "args"
    w = {"jit": weights(**JIT), "lightningdit": weights(**MODERN)}.get(source, W)
    told = {} if source == "jit" else HEADS
    x = X[:, :3] if source == "jit" else X
    alone = import_loaded(saved(tmp_path, w), source, **told)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for held in (options, argparse.Namespace(**options), json.loads(json.dumps(options))):
            loaded = import_loaded(training(tmp_path, w, None, **{entry: held}), source, **told)
            assert loaded.metadata == alone.metadata
            assert torch.equal(loaded.denoiser(x, T, LABELS).native, alone.denoiser(x, T, LABELS).native)


def test_what_is_not_known_is_said(tmp_path):
    options = {f"option_{n}": X for n in range(5)} | {"\x1b[2J": 1, "lr": 1e-4}
    with pytest.warns(UserWarning, match=r"options that are not known here: '\\x1b\[2J', .* and 2 more$"):
        import_loaded(training(tmp_path, W, {"\x1b[2J": 1} | options), "dit", **HEADS)
    for source, model in (("dit", "SiT-XL/2"), ("sit", "DiT-XL/2"), ("lightningdit", "SiT-XL/2")):
        with pytest.warns(UserWarning, match=f"was trained with model='{model}'; is source={source} right"):
            import_loaded(training(tmp_path, W, {"model": model}), source, **HEADS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import_loaded(training(tmp_path, W, {"model": "MyDiT"}), "sit", **HEADS)
        import_loaded(training(tmp_path, W, {"model": 3}), "sit", **HEADS)


def test_options_of_files_that_do_not_say_can_be_told(tmp_path):
    said = import_loaded(training(tmp_path, W, {"path_type": "VP", "prediction": "noise"}), "sit", **HEADS)
    told = import_loaded(saved(tmp_path, W), "sit", **HEADS, settings={"path_type": "VP", "prediction": "noise"})
    assert said.metadata == told.metadata
    with pytest.raises(
        ValueError, match=r"settings\.noise_scale is no option of source=sit; it has num_classes, path_type, p"
    ):
        import_loaded(saved(tmp_path, W), "sit", **HEADS, settings={"noise_scale": 2})
    with pytest.raises(ValueError, match=r"settings\.path_type='VP' contradicts .*foreign\.pt, which says 'GVP'"):
        import_loaded(training(tmp_path, W, {"path_type": "GVP"}), "sit", **HEADS, settings={"path_type": "VP"})
    import_loaded(training(tmp_path, W, {"path_type": "GVP"}), "sit", **HEADS, settings={"path_type": "GVP"})
    with pytest.raises(ValueError, match=r"settings=.* cannot be told of source=diffusers; leave it out"):
        import_loaded(tmp_path, "diffusers", settings={"path_type": "VP"})


def test_a_number_of_classes_that_fills_the_table_means_labels_were_never_dropped(tmp_path):
    loaded = import_loaded(training(tmp_path, W, {"num_classes": 6}), "sit", **HEADS)
    assert loaded.denoiser.null_label is None
    assert loaded.network.num_classes == 6
    assert import_loaded(training(tmp_path, W, {"num_classes": 5}), "sit", **HEADS).denoiser.null_label == 5


def test_an_average_that_is_none_is_none(tmp_path):
    file = saved(tmp_path, {"model": W, "ema": None, "opt": {}, "args": None})
    with pytest.raises(ValueError, match=r"weights=ema is not in .*foreign\.pt; it holds raw"):
        import_loaded(file, "dit", **HEADS)
    assert import_loaded(file, "dit", **HEADS, weights="raw").weights == "raw"


def test_hostile_options_are_data(tmp_path, capsys):
    inside = argparse.Namespace(path_type="VP")
    inside.deeper = inside  # without end
    with pytest.raises(ValueError, match="has args that are no named options"):
        import_loaded(training(tmp_path, W, inside), "sit", **HEADS)
    hooks = argparse.Namespace()
    vars(hooks).update({"__class__": "x", "__dict__": {"path_type": "GVP"}, "__setstate__": "x", "__repr__": "x"})
    with pytest.warns(UserWarning, match="not known here: '__class__', '__setstate__', '__repr__'"):
        loaded = import_loaded(training(tmp_path, W, hooks), "sit", **HEADS)
    assert loaded.metadata.path["name"] == "Trigonometric"

    class Attack:
        def __reduce__(self):
            return print, ("run",)

    with pytest.raises(ValueError, match="holds more than tensors and plain containers, of which nothing is run here"):
        import_loaded(training(tmp_path, W, {"path_type": Attack()}), "sit", **HEADS)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("source", "options"),
    [("sit", {"path_type": "VP", "prediction": "score"}), ("sit", {"path_type": "GVP"}), ("jit", {"noise_scale": 2.0})],
)
def test_out_and_in_again_to_the_bit(tmp_path, source, options):
    w = weights(**JIT) if source == "jit" else W
    before = import_loaded(training(tmp_path, w, options), source, **({} if source == "jit" else HEADS))
    export_safetensors(before, tmp_path / "ours.safetensors")
    after = load(tmp_path / "ours.safetensors")
    assert after.metadata == before.metadata
    assert after.denoiser.path == before.denoiser.path
    x, samples = X[:, : before.shape[0]], []
    for loaded in (before, after):
        grid = make_grid(loaded.denoiser.path, 4)
        samples.append(sample(loaded.denoiser, x, LABELS, grid=grid, solver=Euler()).x0)
    assert torch.equal(*samples)
    assert samples[0].isfinite().all()
