"""What we give away: our own file with its metadata, and the folder that diffusers loads."""

import json
import warnings
from dataclasses import replace

import diffusers
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from dit.checkpoint import (
    Metadata,
    check_resume,
    export_diffusers,
    export_safetensors,
    import_loaded,
    load,
    load_denoiser,
)
from dit.diffusion import DiscreteVP, LinearFlow, VarianceExploding
from dit.solvers import CFG, Euler, make_grid, sample
from dit.solvers.start import FromState
from tests.checkpoint.ours import NAMES, checkpoint, passport

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 2])
T = torch.tensor([0.25, 1.0])
QUIET = pytest.mark.filterwarnings("ignore:DiTPipeline takes label", "ignore:diffusers tells time by")


def assert_identical(a, b):
    """Bit for bit: weights, metadata, answers."""
    mine, theirs = a.network.state_dict(), b.network.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert a.metadata == b.metadata
    assert (a.weights, a.step) == (b.weights, b.step)
    assert torch.equal(a.denoiser(X, T, LABELS).native, b.denoiser(X, T, LABELS).native)
    assert a.denoiser.sigma_data == b.denoiser.sigma_data == 0.5


@pytest.mark.parametrize("weights", ["ema", "raw", "0.9"])
@pytest.mark.parametrize(
    ("path", "kind", "axes"),
    [
        (DiscreteVP.cosine(), "eps", {"learn_variance": True}),
        (LinearFlow(), "velocity", {"norm": "rmsnorm", "mlp": "swiglu", "position": "rope", "class_tokens": 2}),
        (VarianceExploding(), "edm", {"dropout": 0.0}),
    ],
    ids=["dit", "modern", "edm"],
)
def test_a_safetensors_file_is_the_checkpoint_again(tmp_path, weights, path, kind, axes):
    before = load(checkpoint(tmp_path / "last.ckpt", path, kind, **axes), weights)
    export_safetensors(before, tmp_path / "out.safetensors")
    after = load(tmp_path / "out.safetensors")
    assert_identical(before, after)
    assert after.class_names == NAMES
    assert torch.equal(load_denoiser(tmp_path / "out.safetensors")(X, T).native, before.denoiser(X, T).native)
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["last.ckpt", "out.safetensors"]


def test_a_safetensors_file_tells_others_too(tmp_path):
    export_safetensors(load(checkpoint(tmp_path / "last.ckpt"), "0.9"), tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        told, form = json.loads(file.metadata()["ditlab"]), file.metadata()["format"]
    assert form == "pt"
    assert (told["weights"], told["step"]) == ("ema 0.9", 1234)
    assert told["metadata"]["class_names"] == NAMES
    assert told["metadata"]["path"] == DiscreteVP.linear().spec


def test_a_file_with_one_set_of_weights_has_no_other(tmp_path):
    file = checkpoint(tmp_path / "last.ckpt")
    for weights, stored in (("ema", "ema 0.999"), ("raw", "raw")):
        export_safetensors(load(file, weights), tmp_path / f"{weights}.safetensors")
        assert load(tmp_path / f"{weights}.safetensors", stored.removeprefix("ema ")).weights == stored
    with pytest.raises(ValueError, match=r"weights must be ema or 0\.999 where a file has one set .*, got 'raw'"):
        load(tmp_path / "ema.safetensors", "raw")
    with pytest.raises(ValueError, match=r"weights must be ema or raw where a file has one set .*, got '0\.999'"):
        load(tmp_path / "raw.safetensors", "0.999")


def test_files_that_are_no_export_of_ours(tmp_path):
    file = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match=r"checkpoint=.*out\.safetensors does not exist"):
        load(file)
    export_safetensors(load(checkpoint(tmp_path / "last.ckpt")), file)
    content = file.read_bytes()
    for wrong in (content[: len(content) // 2], b"", b"hello there"):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"cannot be read .* it is truncated or no safetensors file"):
            load(file)
    save_file({"x": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"is of another kind: its header has no metadata"):
        load(file)
    with pytest.raises(ValueError, match=r"resume=.*out\.safetensors holds weights and no run; give"):
        check_resume(file, 10)


@pytest.mark.parametrize("without", [(), ("sigma_data",), ("pictures",)], ids=str)
def test_what_ditlab_0_1_wrote_loads_as_if_it_were_of_today(tmp_path, without):
    file = checkpoint(tmp_path / "last.ckpt", learn_variance=True, dropout=0.0, augment_dim=2)
    now, contents = load(file), torch.load(file)
    old = passport(Metadata.from_dict(contents.pop("metadata")))
    contents["passport"] = {key: value for key, value in old.items() if key not in without}
    torch.save(contents, tmp_path / "old.ckpt")
    loaded = load(tmp_path / "old.ckpt")
    assert (loaded.metadata.torch, loaded.metadata.sigma_data) == ("unknown", 1.0 if "sigma_data" in without else 0.5)
    assert replace(loaded.metadata, torch=torch.__version__, sigma_data=0.5) == now.metadata
    assert (loaded.denoiser.null_label, loaded.denoiser.learned_variance) == (None, True)
    assert torch.equal(loaded.network(X, T), now.network(X, T))


def test_a_file_without_digests_is_read_with_a_word(tmp_path, caplog):
    """Older versions wrote none: damage in it changes weights, and nothing in the file tells."""
    file = tmp_path / "x.safetensors"
    loaded = load(checkpoint(tmp_path / "last.ckpt"))
    export_safetensors(loaded, file)
    load(file)
    assert not caplog.records
    with safe_open(file, "pt") as opened:
        header = {key: value for key, value in opened.metadata().items() if not key.startswith("digest")}
    save_file(load_file(file), file, header)
    assert torch.equal(load(file).network(X, T), loaded.network(X, T))
    assert [record.getMessage()[:50] for record in caplog.records] == [f"{file} has no digests"[:50]]


def test_metadata_of_a_newer_version_are_refused_with_its_name(tmp_path):
    file = checkpoint(tmp_path / "last.ckpt")
    contents = torch.load(file)
    contents["metadata"] |= {"version": 3, "ditlab": "0.3.0"}
    torch.save(contents, file)
    with pytest.raises(ValueError, match=r"version 3, written by ditlab '0\.3\.0'; this one reads up to version 2"):
        load(file)


def test_metadata_that_do_not_fit_are_refused(tmp_path):
    file = checkpoint(tmp_path / "last.ckpt")
    contents = torch.load(file)
    contents["metadata"]["network"]["new_axis"] = 1
    torch.save(contents, tmp_path / "newer.ckpt")
    with pytest.raises(ValueError, match=r"the metadata's network dit does not take 'new_axis'"):
        load(tmp_path / "newer.ckpt")
    contents = torch.load(file)
    for average in contents["ema"]["averages"].values():
        del average["final.linear.bias"]
    torch.save(contents, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match=r"the checkpoint is no network of its metadata: missing final\.linear\.bias"):
        load(tmp_path / "damaged.ckpt")
    for text in ("{", '{"unknown": 1}'):
        save_file({"x": torch.zeros(2)}, tmp_path / "bad.safetensors", {"ditlab": text})
        with pytest.raises(ValueError, match=r"bad\.safetensors has metadata that this version cannot read"):
            load(tmp_path / "bad.safetensors")


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise SafetensorError("Permission denied")

    monkeypatch.setattr("dit.tensors.save_file", refuse)
    with pytest.raises(ValueError, match=r"out=.*a\.safetensors cannot be written: Permission denied"):
        export_safetensors(load(checkpoint(tmp_path / "last.ckpt")), tmp_path / "a.safetensors")


PATHS = [
    (DiscreteVP.linear(), "eps"),
    (DiscreteVP.scaled_linear(), "v"),
    (DiscreteVP.cosine(200), "x0"),
    (DiscreteVP.linear(500, 2e-4, 0.04, zero_terminal_snr=True), "v"),
]


@QUIET
@pytest.mark.parametrize("axes", [{}, {"time_endpoint": True, "mlp_norm_eps": 1e-5, "learn_variance": True}], ids=str)
@pytest.mark.parametrize(("path", "kind"), PATHS, ids=lambda v: v if isinstance(v, str) else v.spec["name"])
def test_through_diffusers_and_back_nothing_changes(tmp_path, path, kind, axes):
    before = load(checkpoint(tmp_path / "last.ckpt", path, kind, dropout=0.3, **axes))
    export_diffusers(before, tmp_path / "out")
    assert_identical(before, import_loaded(tmp_path / "out", "diffusers"))
    assert_identical(before, import_loaded(tmp_path / "out" / "transformer", "diffusers", weights="0.999"))
    with pytest.raises(ValueError, match=r"weights must be ema or 0\.999"):
        import_loaded(tmp_path / "out", "diffusers", weights="raw")
    assert import_loaded(tmp_path / "out", "diffusers", class_names=["a", "b", "c"]).class_names == ["a", "b", "c"]


@QUIET
@pytest.mark.parametrize(("path", "kind"), PATHS, ids=lambda v: v if isinstance(v, str) else v.spec["name"])
@pytest.mark.parametrize("learn_variance", [False, True])
def test_diffusers_computes_what_we_do(tmp_path, path, kind, learn_variance):
    axes = {"time_endpoint": True, "mlp_norm_eps": 1e-3, "learn_variance": learn_variance, "patch_size": 4}
    ours = load(checkpoint(tmp_path / "last.ckpt", path, kind, **axes))
    export_diffusers(ours, tmp_path / "out")
    theirs = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "out" / "transformer")
    times = torch.tensor([3, path.num_steps - 1])
    with torch.no_grad():
        torch.testing.assert_close(theirs(X, times, LABELS).sample, ours.network(X, times, LABELS), rtol=0, atol=1e-5)
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    entries = (torch.arange(path.num_steps) + 1) / path.num_steps
    torch.testing.assert_close(scheduler.alphas_cumprod, path.coefficients(entries).alpha ** 2, rtol=0, atol=1e-6)
    scheduler.set_timesteps(10)
    x = X
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            said = theirs(x, timestep.expand(2), LABELS).sample[:, :4]
        x = scheduler.step(said, timestep, x).prev_sample
    grid = make_grid(path, 10, "trailing")
    out = sample(ours.denoiser, None, LABELS, grid=grid, solver=Euler(), start=FromState(X))
    torch.testing.assert_close(out.x0 / x.std(), x / x.std(), rtol=0, atol=1e-4)

    # Saved again by diffusers it has lost our metadata: what it says itself is then taken.
    theirs.save_pretrained(tmp_path / "again" / "transformer")
    scheduler.save_pretrained(tmp_path / "again" / "scheduler")
    again = import_loaded(tmp_path / "again", "diffusers")
    assert torch.equal(again.denoiser(X, T, LABELS).native, ours.denoiser(X, T, LABELS).native)
    assert again.metadata.path == ours.metadata.path
    assert again.metadata.network == ours.metadata.network


def tiny_vae():
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    ).eval()


@QUIET
def test_the_pipeline_draws_our_pictures(tmp_path):
    names = [f"class {label}" for label in range(1000)]  # as many as its label for "no class" is made for
    ours = load(checkpoint(tmp_path / "last.ckpt", names=names, time_endpoint=True, learn_variance=True))
    export_diffusers(ours, tmp_path / "out")
    vae = tiny_vae()
    pipeline = diffusers.DiTPipeline.from_pretrained(tmp_path / "out", vae=vae)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.get_label_ids(["class 7", "class 300"]) == [7, 300]

    theirs = pipeline([7, 300], 2.0, torch.Generator().manual_seed(5), 10, output_type="np").images
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    grid = make_grid(ours.denoiser.path, 10, "trailing")
    out = sample(ours.denoiser, noise, torch.tensor([7, 300]), grid=grid, solver=Euler(), guidance=CFG(2.0))
    with torch.no_grad():
        pictures = (vae.decode(out.x0 / 0.5).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.from_numpy(theirs), pictures, rtol=0, atol=1e-4)
    assert pictures.std() > 0.05


@QUIET
def test_the_pipeline_folder_may_hold_its_autoencoder(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    export_diffusers(load(checkpoint(tmp_path / "last.ckpt")), tmp_path / "out", vae=tmp_path / "vae")
    pipeline = diffusers.DiTPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.vae.config.scaling_factor == 0.5
    assert pipeline.labels == {"hen": 0, "newt": 1, "toad": 2, "frog": 2}
    with pytest.raises(ValueError, match=r"vae=.*out is no folder of diffusers: it has no config\.json"):
        export_diffusers(load(tmp_path / "last.ckpt"), tmp_path / "more", vae=tmp_path / "out")


def test_what_diffusers_will_do_otherwise_is_warned_of(tmp_path):
    ours = load(checkpoint(tmp_path / "last.ckpt"))
    with (
        pytest.warns(UserWarning, match=r"tells time by other frequencies .*time_endpoint=false"),
        pytest.warns(UserWarning, match="DiTPipeline takes label 1000 .* with 3 classes; give it guidance_scale=1"),
    ):
        export_diffusers(ours, tmp_path / "a")
    names = [str(label) for label in range(1000)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_diffusers(load(checkpoint(tmp_path / "last.ckpt", names=names, time_endpoint=True)), tmp_path / "b")


@pytest.mark.parametrize(
    ("axes", "named"),
    [
        ({"conditioning": "adaln"}, "model.conditioning=adaln"),
        ({"norm": "rmsnorm", "mlp": "swiglu"}, "model.norm=rmsnorm, model.mlp=swiglu"),
        ({"position": "sincos_rope"}, "model.position=sincos_rope"),
        ({"position": "learned"}, "model.position=learned"),
        ({"qk_norm": True}, "model.qk_norm=True"),
        ({"num_kv_heads": 1}, "model.num_kv_heads=1"),
        ({"class_tokens": 1}, "model.class_tokens=1"),
        ({"bottleneck": 3}, "model.bottleneck=3"),
        ({"mlp_ratio": 2.0}, "model.mlp_ratio=2.0"),
        ({"names": []}, "model.num_classes=0"),
        ({"path": LinearFlow(), "kind": "velocity"}, "path LinearFlow, kind velocity"),
        ({"path": DiscreteVP.sigmoid()}, "path DiscreteVP.sigmoid"),
        ({"path": DiscreteVP.cosine(offset=0.01)}, "path DiscreteVP.cosine"),
        ({"kind": "score"}, "kind score"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_diffusers_cannot_compute_is_refused_by_name(tmp_path, axes, named):
    ours = load(checkpoint(tmp_path / "last.ckpt", **axes))
    with pytest.raises(ValueError, match=f"to=diffusers has no {named}; its DiTTransformer2DModel can only be"):
        export_diffusers(ours, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@QUIET
def test_an_unfinished_export_leaves_nothing(tmp_path, monkeypatch):
    ours = load(checkpoint(tmp_path / "last.ckpt"))

    def disk_full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("dit.tensors.save_file", disk_full)
    for export, name in ((export_safetensors, "out.safetensors"), (export_diffusers, "out")):
        with pytest.raises(ValueError, match=rf"out=.*{name} cannot be written: disk full"):
            export(ours, tmp_path / name)
    assert [f.name for f in tmp_path.iterdir()] == ["last.ckpt"]


@QUIET
def test_nothing_is_overwritten(tmp_path):
    ours = load(checkpoint(tmp_path / "last.ckpt"))
    for export, name in ((export_safetensors, "out.safetensors"), (export_diffusers, "out")):
        export(ours, tmp_path / name)
        with pytest.raises(ValueError, match=rf"out=.*{name} is there already; give another name"):
            export(ours, tmp_path / name)
        with pytest.raises(ValueError, match=r"out=.* cannot be written: .*nowhere is no folder"):
            export(ours, tmp_path / "nowhere" / name)
    with pytest.raises(ValueError, match=r"out=.*weights\.bin must end in \.safetensors"):
        export_safetensors(ours, tmp_path / "weights.bin")
