"""What is no checkpoint of the source it is said to be: refused in a sentence that lists the differences."""

import json

import diffusers
import pytest
import torch

from dit.checkpoint import import_checkpoint
from tests.checkpoint.foreign import JIT, MODERN, W, X, saved, their_transformer, weights


def without(w, *names):
    return {name: tensor for name, tensor in w.items() if name not in names}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (W | {"blocks.0.attn.foo": X}, r"is no DiT: unknown blocks\.0\.attn\.foo$"),
        (without(W, "final_layer.linear.bias"), r"is no DiT: missing final_layer\.linear\.bias$"),
        (without(W, "pos_embed"), r"is no DiT: missing pos_embed$"),
        (without(W, "blocks.0.mlp.fc1.weight"), r"is no DiT: missing blocks\.0\.mlp\.fc1\.weight$"),
        (
            W | {"blocks.1.attn.qkv.bias": torch.zeros(3)},
            r"is no DiT: shape of blocks\.1\.attn\.qkv\.bias is \[3\], expected \[72\]$",
        ),
        (
            W | {"final_layer.linear.weight": torch.zeros(17, 24)},
            r"is no DiT: shape of final_layer\.linear\.weight is \[17, 24\], expected \[16, 24\]$",
        ),
        (
            W | {"x_embedder.proj.weight": torch.zeros(24, 16)},
            r"is no DiT: x_embedder\.proj\.weight has 2 axes, expected 4$",
        ),
        (W | {f"extra.{n}": X for n in range(6)}, r"unknown extra\.0, extra\.1, extra\.2, extra\.3 and 2 more$"),
        (W | {"pos_embed": W["pos_embed"] + 1e-3}, "is no DiT: pos_embed is not the fixed table$"),
        (W | {"pos_embed": W["pos_embed"] * float("nan")}, "is no DiT: pos_embed is not the fixed table$"),
        (W | {"pos_embed": W["pos_embed"][:, :15]}, "pos_embed has 15 tokens, which make no square$"),
        (weights(gated=True), r"is no DiT: missing blocks\.0\.mlp\.fc1\.weight$"),
        (weights(rope=True), r"is no DiT: unknown feat_rope\.freqs_cos, feat_rope\.freqs_sin$"),
        ({"state": 3}, "is no DiT: its entries are state$"),
        ([W], "is no DiT: it holds a list rather than a state dict$"),
    ],
)
def test_what_is_no_dit_is_refused_with_its_differences(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        import_checkpoint(saved(tmp_path, changed), "dit", num_heads=2)


def test_rotation_tables_are_checked(tmp_path):
    w = weights(**MODERN)
    w["feat_rope.freqs_sin"] = w["feat_rope.freqs_sin"] + 1e-3
    with pytest.raises(ValueError, match=r"is no LightningDiT: feat_rope\.freqs_sin is not the fixed table"):
        import_checkpoint(saved(tmp_path, w), "lightningdit", num_heads=2)


@pytest.mark.parametrize(
    ("source", "told", "message"),
    [
        ("pixart", {}, "source must be one of dit, sit, repa, lightningdit, jit, diffusers, got 'pixart'"),
        ("dit", {}, "has width 24, of which no number of heads was published; give num_heads"),
        ("dit", {"num_heads": 5}, "num_heads must divide hidden_size 24, got 5"),
        ("dit", {"num_heads": 2, "weights": "0.9"}, "weights must be ema or raw for a DiT, got '0.9'"),
        ("dit", {"num_heads": 2, "num_classes": 9}, "num_classes=9 does not fit the 6 rows of the label table"),
        ("dit", {"num_heads": 2, "class_tokens_from": 1}, "class_tokens_from=1 does not fit .* no class tokens"),
        ("dit", {"num_heads": 2, "class_names": ["a"]}, r"class_names must be 5 different names, got 1"),
        ("dit", {"num_heads": 2, "class_names": list("aabbc")}, r"5 different names, got 5 \(3 different\)"),
        ("jit", {}, "has class tokens and 2 blocks, of which no first block was published; give class_tokens_from"),
        ("diffusers", {"num_heads": 2}, "num_heads=2 cannot be told of source=diffusers; leave it out"),
    ],
)
def test_what_is_to_be_said_is_asked_in_a_sentence(tmp_path, source, told, message):
    w = weights(**JIT, tokens=2) if source == "jit" else W
    with pytest.raises(ValueError, match=message):
        import_checkpoint(saved(tmp_path, w), source, **told)


def test_files_that_are_no_checkpoint(tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(
        ValueError, match=r"checkpoint=.*text cannot be read \(5 bytes\): it is truncated or no checkpoint"
    ):
        import_checkpoint(tmp_path / "text", "dit")
    with pytest.raises(ValueError, match=r"checkpoint=.*nothing is no file; give the \.pt or \.pth file of a SiT"):
        import_checkpoint(tmp_path / "nothing", "sit")
    with pytest.raises(
        ValueError, match=r"is no folder of diffusers; give one with transformer/ or config\.json in it"
    ):
        import_checkpoint(tmp_path, "diffusers")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        import_checkpoint(tmp_path, "diffusers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no weights; .* needs diffusion_pytorch_model\.safetensors or \.bin"):
        import_checkpoint(tmp_path, "diffusers")


class Attack:
    def __reduce__(self):
        return print, ("run",)


def test_code_in_a_pickle_is_not_run(tmp_path, capsys):
    with pytest.raises(ValueError, match="holds more than tensors and plain containers, of which nothing is run here"):
        import_checkpoint(saved(tmp_path, W | {"pos_embed": Attack()}), "dit", num_heads=2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "config.json",
            {"_class_name": "PixArtTransformer2DModel"},
            "of the class PixArt.*; only DiTTransformer2DModel",
        ),
        (
            "config.json",
            {"activation_fn": "geglu"},
            "has activation_fn='geglu'; only 'gelu-approximate' can be imported",
        ),
        ("config.json", {"num_layers": None}, r"has num_layers=None in its config\.json; it must be a whole number"),
        ("config.json", {"out_channels": 5}, "has out_channels=5; it must be in_channels=4, or twice that"),
        (
            "config.json",
            {"num_layers": 3},
            r"is no DiTTransformer2DModel: missing transformer_blocks\.2\..* and 15 more",
        ),
        ("config.json", {"num_layers": 1}, r"is no DiTTransformer2DModel: unknown transformer_blocks\.1\."),
        (
            "config.json",
            {"patch_size": 4},
            r"shape of pos_embed\.proj\.weight is \[24, 4, 2, 2\], expected \[24, 4, 4, 4\]",
        ),
        (
            "../scheduler/scheduler_config.json",
            {"beta_schedule": "sigmoid"},
            "has beta_schedule='sigmoid'.*; known are",
        ),
        (
            "../scheduler/scheduler_config.json",
            {"use_flow_sigmas": True},
            "has use_flow_sigmas=True, a flow and no table of betas",
        ),
        ("../scheduler/scheduler_config.json", {"prediction_type": "flow"}, "has prediction_type='flow'.*; known are"),
        (
            "../scheduler/scheduler_config.json",
            {"beta_schedule": None},
            "DDIMScheduler, which is made of no table of betas",
        ),
    ],
)
def test_folders_of_diffusers_that_are_something_else(tmp_path, file, change, message):
    their_transformer(original=False).save_pretrained(tmp_path / "transformer")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    file = tmp_path / "transformer" / file
    contents = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in contents.items() if key != "beta_schedule" or value}))
    with pytest.raises(ValueError, match=message):
        import_checkpoint(tmp_path, "diffusers")


def test_blocks_that_do_not_share_their_embeddings_are_refused(tmp_path):
    theirs = their_transformer(original=False)
    with torch.no_grad():
        theirs.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight[2, 3] += 1
    theirs.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"has other values in transformer_blocks\.1.*embedding_table\.weight than in"):
        import_checkpoint(tmp_path / "model", "diffusers")
    with pytest.raises(ValueError, match="weights must be ema where a file has one set"):
        import_checkpoint(tmp_path / "model", "diffusers", weights="raw")
