"""Reading a latent cache: samples, normalisation, decoding, subsets, and training on it."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data.latents.manifest import Manifest
from data.order import EndlessOrder, Pick
from dit.checkpoint import Model, load
from dit.codec import LatentCodec, codec_from_spec
from dit.solvers import Sampler
from dit.training import Preview, SaveCheckpoint, start_from
from tests.data.caches import autoencoder, cache, latents, save_vae
from tests.training.tiny import assert_same, module, state, trainer


def test_a_read_samples_the_posterior_as_its_draw_says_and_validation_takes_the_mean(made):
    split = latents(made).train
    mean, log_variance = torch.from_numpy(np.array(split._record(Pick(3, True)))).chunk(2)
    draws = split.images([Pick(3, True, draw) for draw in range(4000)])
    standard = (draws - mean) / log_variance.mul(0.5).exp()
    assert standard.mean().abs() < 0.01
    assert standard.std() == pytest.approx(1, abs=0.01)
    assert torch.equal(split.images([Pick(3, True, 7), Pick(5, False, 7)])[0], draws[7])
    assert torch.equal(split.read(3), torch.from_numpy(np.array(split._record(Pick(3))))[:3])
    picks = [pick for batch in latents(made).val_dataloader().batch_sampler for pick in batch]
    assert all(pick.draw is None and not pick.mirrored for pick in picks)


def test_both_normalisations_are_told_and_per_channel_is_mean_0_and_variance_1(made, vae):
    known = Manifest.read(made).normalisations
    assert known["scalar"] == {"scale": 0.5, "shift": 0.0}
    data = latents(made, normalisation="per_channel")
    assert data.facts["codec"]["vae_hash"] == autoencoder(vae).hash
    picks = [Pick(i, mirrored, 99 * i + d) for i in range(50) for mirrored in (False, True) for d in range(20)]
    x = data.codec.encode(data.train.images(picks))
    assert x.mean((0, 2, 3)).abs().max() < 0.01
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.01
    scalar = latents(made).codec
    assert torch.equal(scalar.encode(data.train.images(picks[:2])), data.train.images(picks[:2]) * 0.5)


def test_decoding_undoes_the_normalisation_and_finds_the_autoencoder_it_was_told_of(made, vae, tmp_path):
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = autoencoder(vae).decode(z)
    for normalisation in ("scalar", "per_channel"):
        codec = latents(made, normalisation=normalisation).codec
        again = codec_from_spec(json.loads(json.dumps(codec.spec)))
        close = again.decode(codec.encode(z)).float() - expected.float()
        assert close.abs().max() <= 1  # a rounding
        assert again.spec == codec.spec
    for option in ("slicing", "tiling"):
        assert torch.equal(LatentCodec(vae, 1.0, **{option: True}).decode(z), expected)
    other = save_vae(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"vae=.*other is another autoencoder .* hash [0-9a-f]{32}, theirs had"):
        codec_from_spec(codec.spec, vae=other)


def test_large_pictures_are_decoded_in_tiles(vae):
    network = autoencoder(vae, tiling=True).network
    assert network.use_tiling
    assert not network.use_slicing
    assert autoencoder(vae, slicing=True).network.use_slicing
    z = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network.tile_latent_min_size, network.tile_sample_min_size = 32, 64
    whole, tiled = autoencoder(vae).decode(z).float(), network.decode(z).sample
    seen = ((tiled / 2 + 0.5) * 255).clamp(0, 255)
    assert (seen - whole).abs().mean() < 20
    assert not torch.equal(seen.round(), whole)


def test_half_precision_is_close(made, vae, tmp_path):
    cache(tmp_path / "half", vae, dtype="float16")
    picks = [Pick(i, True, i) for i in range(50)]
    whole, half = (latents(root).train.images(picks) for root in (made, tmp_path / "half"))
    assert half.dtype == torch.float32
    assert 0 < (whole - half).abs().max() < 2e-3 * whole.abs().max()
    sizes = [sum(f.stat().st_size for f in root.glob("train-*.*.npy")) for root in (made, tmp_path / "half")]
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.02)


def test_a_cache_that_is_not_what_the_configuration_says_is_refused_with_the_differences(made, tmp_path):
    other = save_vae(tmp_path / "other", seed=1)
    changes = {"image_size": 32, "channels": 4, "num_classes": 1000 // 100, "normalisation": "unit", "vae": other}
    said = (
        r"the cache data\.root=.* is another than asked for: data\.image_size=32, there 8; data\.channels=4, there 3; "
        r"data\.num_classes=10, there 4; data\.normalisation=unit, there scalar or per_channel; the weights of "
        r"data\.vae=.*other have the hash [0-9a-f]{32}, there [0-9a-f]{32} \(.*\)$"
    )
    with pytest.raises(ValueError, match=said):
        latents(made, **changes)


def test_workers_and_subsets_read_the_same_latents(made):
    def batches(**changes):
        data = latents(made, mirror=True, **changes)
        loop = SimpleNamespace(total_batch_idx=-1)
        data.trainer = SimpleNamespace(world_size=1, global_rank=0, accumulate_grad_batches=1, fit_loop=loop)
        return list(islice(data.train_dataloader(), 9))

    alone = batches()
    for mine, theirs in zip(alone, batches(num_workers=2), strict=True):
        assert torch.equal(mine.images, theirs.images)
    order = next(iter(EndlessOrder(50, 8, 0, 0, 1, True)))
    assert torch.equal(alone[0].images, latents(made).train.images(order))
    some = latents(made, classes=["3", "1"], num_classes=2, fraction=0.5).train
    whole = latents(made).train
    assert len(some) == 13  # half of 12 and half of 13, rounded up
    for i in range(13):
        pick = Pick(i, i % 2 == 0, i)
        theirs = pick._replace(index=int(some._chosen[i]))
        assert whole.labels[theirs.index] == (3, 1)[some.labels[i]]
        assert torch.equal(some.images([pick]), whole.images([theirs]))


def test_a_split_is_sent_to_workers_without_its_files(made):
    split = latents(made).train
    split.read(0)
    again = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 10_000
    assert torch.equal(again.read(40), split.read(40))


def test_mapped_shards_keep_no_file_open(vae, tmp_path):
    """ImageNet has 1,251 shards for training, and many a process may open 1,024 files."""
    cache(tmp_path, vae, shard_size=1)
    split = latents(tmp_path).train
    expected = [np.load(file)[0, 0, :3] for file in split._files]
    before = len(os.listdir("/dev/fd"))
    found = [split.read(number) for number in range(50)]
    assert len(os.listdir("/dev/fd")) == before
    assert len(split._maps) == 50
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def tiny(made, **changes):
    data = latents(made, mirror=True, validation_images=5, **changes)
    return data, module(data, image_size=8, channels=3, patch_size=4)


def test_training_on_a_cache_resumes_bit_for_bit_and_its_checkpoint_knows_the_autoencoder(made, vae, tmp_path):
    """12 steps against 7, save, load, 5 more: which picture, mirrored or not, and its sample of the posterior."""
    straight, run = tiny(made)[::-1], trainer(tmp_path, 12)
    run.fit(*straight)
    data, model = tiny(made)
    trainer(tmp_path, 7, [SaveCheckpoint(str(tmp_path), every_n_steps=7)]).fit(model, data)
    data, model = tiny(made, vae=shutil.copytree(vae, tmp_path / "moved"))  # the same autoencoder elsewhere
    resumed = trainer(tmp_path, 12)
    resumed.fit(model, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert_same(state(straight[0], run), state(model, resumed))
    spec = load(tmp_path / "last.ckpt").metadata.codec
    assert spec == {"name": "Latents", "scale": 0.5, "shift": 0.0, "vae": vae, "vae_hash": autoencoder(vae).hash}

    data, model = tiny(made, normalisation="per_channel")
    with pytest.raises(ValueError, match=r"cannot resume: the checkpoint's codec is .*'scale': 0\.5"):
        trainer(tmp_path, 12).fit(model, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    loaded = load(tmp_path / "last.ckpt")
    loaded = replace(loaded, metadata=replace(loaded.metadata, pictures={"name": "Latents"}))
    with pytest.raises(ValueError, match="this model was trained on latents: there are no pictures to score"):
        _ = loaded.pictures


def test_previews_of_latents_are_pictures(made, tmp_path):
    data, model = tiny(made)
    preview = Preview(str(tmp_path / "previews"), Sampler(steps=2), every_n_steps=2, classes=2, per_class=1)
    trainer(tmp_path, 2, [preview]).fit(model, data)
    with Image.open(tmp_path / "previews" / "step_0000002.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (52, 102))  # 16 pixels a side, shown three times as large


def test_an_imported_network_is_fine_tuned_on_a_cache_of_the_same_scale(made, tmp_path):
    """What others trained knows its scale, not which autoencoder's latents it saw."""
    data, model = tiny(made)
    metadata = replace(model.metadata, codec={"name": "Latents", "scale": 0.5})
    theirs = Model(model.network, model.denoiser, metadata, "as given", 0)
    fresh = tiny(made)[1].network
    assert "every weight" in start_from(fresh, theirs, data.facts)
    for other in ({"scale": 0.18215}, {"scale": 0.5, "shift": 0.1}, {"scale": 0.5, "vae_hash": "0" * 32}):
        theirs = replace(theirs, metadata=replace(metadata, codec={"name": "Latents", **other}))
        with pytest.raises(ValueError, match=r"finetune_from was trained on pictures normalised by .*, these are by"):
            start_from(fresh, theirs, data.facts)
