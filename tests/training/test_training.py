"""Training: exact resume, seeds, accumulation, learning at all, and what stops it."""

import math
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback, Trainer
from PIL import Image

from data.split import Batch, InMemory
from dit.checkpoint import Metadata, check_resume, load, read
from dit.diffusion import LinearFlow, LogitNormal, Uniform
from dit.model import DiT
from dit.objectives import MSE, Losses
from dit.output import contact_sheet
from dit.solvers import CFG, Sampler
from dit.training import DiTModule, Ema, LevelLoss, Preview, SaveCheckpoint, make_trainer
from dit.training.module import step_seed
from dit.training.schedule import constant, cosine, wsd
from tests.exact import PATHS, Gaussian
from tests.training.tiny import assert_same, digits, module, state, trainer


def fit(folder, steps, seed=0, resume=None, batch_size=16, callbacks=(), settings=None, **changes):
    data = digits(batch_size, seed=seed, mirror=True)
    model = module(data, seed, **changes)
    run = trainer(folder, steps, callbacks, **(settings or {}))
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, run


@pytest.mark.parametrize("accumulate", [1, 2])
def test_interrupted_training_equals_uninterrupted_bit_for_bit(tmp_path, accumulate, monkeypatch):
    """12 steps against 7, save, load, 5 more: weights, averages, optimiser, data order and every draw."""
    settings = {"accumulate_grad_batches": accumulate}
    straight = fit(tmp_path / "a", 12, settings=settings)
    save = SaveCheckpoint(str(tmp_path / "b"), every_n_steps=7)
    fit(tmp_path / "b", 7, callbacks=[save], settings=settings)
    torch.manual_seed(12345)  # whatever the new process starts with must not matter
    saved, save_checkpoint = [], Trainer.save_checkpoint
    monkeypatch.setattr(
        Trainer,
        "save_checkpoint",
        lambda self, *args, **kwargs: saved.append(self.global_step) or save_checkpoint(self, *args, **kwargs),
    )
    again = SaveCheckpoint(str(tmp_path / "b"), every_n_steps=7)
    resumed = fit(tmp_path / "c", 12, resume=tmp_path / "b" / "last.ckpt", callbacks=[again], settings=settings)
    assert saved == [12]  # not at 7 again, in the middle of an accumulation
    assert resumed[1].global_step == 12
    assert_same(state(*straight), state(*resumed))


def test_saving_and_looking_do_not_change_the_run(tmp_path):
    """Checkpoints, previews and validation draw noise of their own; the next step must not notice."""
    plain = fit(tmp_path / "a", 6)
    callbacks = [
        Preview(str(tmp_path / "p"), Sampler(steps=2), every_n_steps=2, classes=2, per_class=1),
        SaveCheckpoint(str(tmp_path / "b"), every_n_steps=2),
    ]
    busy = fit(tmp_path / "b", 6, callbacks=callbacks, settings={"val_check_interval": 2})
    assert_same(state(*plain), state(*busy))
    assert sorted(f.name for f in (tmp_path / "p").iterdir()) == [f"step_000000{n}.png" for n in (0, 2, 4, 6)]


def test_seed_zero_is_a_seed(tmp_path):
    runs = [state(*fit(tmp_path / str(i), 3, seed=seed)) for i, seed in enumerate((0, 0, 1))]
    assert_same(runs[0], runs[1])
    assert not torch.equal(runs[0]["weight/final.linear.weight"], runs[2]["weight/final.linear.weight"])
    assert len({step_seed(s, r, b) for s in range(4) for r in range(4) for b in range(4)}) == 64


def test_every_rank_draws_its_own_noise(tmp_path, monkeypatch):
    drawn = {}
    for rank in (0, 1):
        model = module(digits())
        monkeypatch.setattr(type(model), "global_rank", rank)
        model.log = lambda *a, **k: None
        model._trainer = SimpleNamespace(
            fit_loop=SimpleNamespace(total_batch_idx=5),
            global_step=5,
            world_size=2,
            accumulate_grad_batches=1,
            log_every_n_steps=50,
        )
        monkeypatch.setattr(
            model, "losses", lambda x0, y, r, told, rank=rank: Losses(drawn.setdefault(rank, r.eps).mean((1, 2, 3)))
        )
        model.training_step(Batch(torch.zeros(2, 1, 8, 8), torch.zeros(2).long(), torch.arange(2)), 0)
    assert not torch.equal(drawn[0], drawn[1])


def test_bfloat16_training_keeps_weights_and_averages_in_float32(tmp_path):
    model, run = fit(tmp_path, 5, settings={"precision": "bf16-mixed"})
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert {a.dtype for average in model.ema.averages.values() for a in average.values()} == {torch.float32}
    assert run.callback_metrics["train/loss"].isfinite()
    plain, _ = fit(tmp_path, 5)
    difference = [(a - b).abs().max() for a, b in zip(model.parameters(), plain.parameters(), strict=True)]
    assert 0 < max(difference) < 0.1


def test_training_overfits_one_batch(tmp_path):
    settings = {"limit_train_batches": 1}
    data = digits(16)
    model = module(data, dropout=0.0, hidden_size=64, depth=2, patch_size=2, lr_schedule=constant)
    seen = []
    model.log = lambda name, value, **_: seen.append(float(value.detach()))
    trainer(tmp_path, 150, **settings).fit(model, data)
    # Unseen noise keeps it from 0; a third of the start is far below what all the pictures together allow.
    assert sum(seen[-20:]) < 0.33 * sum(seen[:20])


def test_accumulated_half_batches_equal_the_full_batch(tmp_path):
    """Times, noise and dropped labels go by the number of the picture: 2 x 8 accumulated is 1 x 16, to rounding."""
    runs = [fit(tmp_path / str(n), 4, dropout=0.5, settings={"accumulate_grad_batches": n}) for n in (1, 2)]
    assert [run.fit_loop.total_batch_idx + 1 for _, run in runs] == [4, 8]
    for a, b in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)
    assert runs[0][0].ema.steps == runs[1][0].ema.steps == 4


def test_every_micro_batch_draws_anew(tmp_path, monkeypatch):
    """Were the seed one of the step, accumulated batches would repeat each other's times and noise."""
    drawn, draw = [], LogitNormal.at
    monkeypatch.setattr(LogitNormal, "at", lambda *args, **kw: drawn.append(draw(*args, **kw)) or drawn[-1])
    fit(tmp_path, 3, settings={"accumulate_grad_batches": 2})
    assert len(drawn) == 6
    assert len({tuple(t.tolist()) for t in drawn}) == 6


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.batch_size=16 is global .* 1 processes x 3 accumulated"):
        fit(tmp_path, 1, settings={"accumulate_grad_batches": 3})


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path):
    data = digits(4)
    model = module(data)
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    inner = model.denoiser.network
    model.denoiser.network = lambda x, time, labels, **more: (
        inner(x, time, labels, **more) / torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None, None, None]
    )  # 0 / 0 in the third picture
    with pytest.raises(
        FloatingPointError, match=r"loss is not finite at step 0 \(rank 0\), log-SNR -?\d+\.\d\d, pictures \d+ of"
    ):
        trainer(tmp_path, 2).fit(model, data)
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path):
    data = digits(16)
    model = module(data)
    before = model.network.final.linear.weight.clone()
    model.network.final.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match=r"gradient is not finite at step 0 .* and 12 more, pictures"):
        trainer(tmp_path, 2).fit(model, data)
    assert torch.equal(model.network.final.linear.weight, before)


def test_the_batch_of_a_real_run_is_encoded_mirrored_and_seeded(tmp_path):
    """What reaches training_step: model space, pictures of this seed's order, mirrored as the order says."""
    seen = {}
    for seed in (0, 1):
        data = digits(16, seed=seed, mirror=True)
        model = module(data, seed)
        step = model.training_step
        model.training_step = lambda batch, i, step=step, seed=seed: seen.setdefault(seed, batch) and step(batch, i)
        trainer(tmp_path, 1).fit(model, data)
    batch = seen[0]
    assert batch.images.dtype == torch.float32
    assert batch.images.aminmax() == (-1, 1)
    plain = data.codec.encode(torch.stack([data.train.read(i) for i in batch.index.tolist()]))
    same = (batch.images == plain).flatten(1).all(1)
    flipped = (batch.images == plain.flip(-1)).flatten(1).all(1)
    assert (same | flipped).all()
    assert 0 < int((flipped & ~same).sum()) < 16
    assert torch.equal(batch.labels, data.train.labels[batch.index])
    assert not torch.equal(batch.index, seen[1].index)


def test_the_learning_rate_moves_every_step_and_gradients_are_clipped(tmp_path):
    _, run = fit(tmp_path, 2)
    # Warm-up over three steps of 1e-2: after two steps the third's rate is set.
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2)
    assert run.callback_metrics["train/gradient_norm"].isfinite()


def test_training_that_ends_early_still_saves(tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step >= 3

    fit(tmp_path, 50, callbacks=[Stop(), SaveCheckpoint(str(tmp_path), every_n_steps=100)])
    assert read(tmp_path / "last.ckpt")["global_step"] == 3


def test_another_runs_checkpoint_is_not_replaced(tmp_path):
    def save():
        return SaveCheckpoint(str(tmp_path), every_n_steps=2)

    fit(tmp_path, 2, callbacks=[save()])
    with pytest.raises(ValueError, match=r"last\.ckpt is the checkpoint of another run; resume="):
        fit(tmp_path, 2, callbacks=[save()])
    fit(tmp_path, 4, callbacks=[save()], resume=tmp_path / "last.ckpt")
    assert read(tmp_path / "last.ckpt")["global_step"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 32}, r"cannot resume with data\.batch_size=32: the checkpoint was trained with 16"),
        ({"seed": 1}, r"cannot resume with data\.seed=1"),
    ],
)
def test_a_resume_that_would_repeat_or_skip_pictures_is_refused(tmp_path, changes, message):
    fit(tmp_path, 1, callbacks=[SaveCheckpoint(str(tmp_path), every_n_steps=1)])
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "again", 2, resume=tmp_path / "last.ckpt", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fraction": 0.5}, r"cannot resume with data\.fraction=0\.5: the checkpoint was trained with 1\.0"),
        ({"missing": 3}, r"cannot resume with data\.pictures=1434: the checkpoint was trained with 1437"),
    ],
)
def test_a_resume_on_other_pictures_is_refused(tmp_path, changes, message):
    fit(tmp_path, 1, callbacks=[SaveCheckpoint(str(tmp_path), every_n_steps=1)])
    missing = changes.get("missing", 0)
    data = digits(seed=0, mirror=True, **{key: value for key, value in changes.items() if key != "missing"})
    if missing:  # as if files had gone
        data.train = InMemory(*(part[missing:] for part in data.train.tensors()))
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, 2).fit(module(data), data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_resuming_nothing_or_a_finished_run_is_refused(tmp_path):
    fit(tmp_path, 2, callbacks=[SaveCheckpoint(str(tmp_path), every_n_steps=2)])
    check_resume(tmp_path / "last.ckpt", max_steps=3)
    with pytest.raises(ValueError, match=r"trainer\.max_steps=2 must exceed step 2, which resume=.* has reached"):
        check_resume(tmp_path / "last.ckpt", max_steps=2)
    with pytest.raises(ValueError, match=r"resume=.*gone does not exist"):
        check_resume(tmp_path / "gone", max_steps=2)
    with pytest.raises(ValueError, match=r"resume=.* is a folder"):
        check_resume(tmp_path, max_steps=2)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_validation_loss_is_the_closed_form_on_every_path(path):
    """For the exact denoiser of N(0.7, 0.5^2): (1 + SNR) times the posterior variance, the same on every path."""
    x0 = 0.7 + 0.5 * torch.randn(4000, 1, dtype=torch.float64)
    losses = LevelLoss()(Gaussian(path), x0, torch.zeros(4000).long(), torch.arange(4000))
    for level, loss in losses.items():
        snr = math.exp(level)
        exact = (1 + snr) * 0.25 / (1 + snr * 0.25)
        # The mean of 4,000 squared normals has a relative standard error of sqrt(2/4000) = 2.2 %.
        assert float(loss) == pytest.approx(exact, rel=0.11)
    reference = LevelLoss()(Gaussian(PATHS["flow"]), x0, torch.zeros(4000).long(), torch.arange(4000))
    for level, loss in losses.items():
        assert float(loss) == pytest.approx(float(reference[level]), rel=1e-6)


def test_validation_losses_in_every_space_are_of_one_error():
    """The exact denoiser of N(0.7, 0.5^2) errs by the posterior variance in x0, and by SNR times that in eps."""
    path = PATHS["flow"]
    x0 = 0.7 + 0.5 * torch.randn(4000, 1, dtype=torch.float64)
    measure = LevelLoss(levels=[-1, 3])
    named = measure.scalars(measure(Gaussian(path), x0, torch.zeros(4000).long(), torch.arange(4000)))
    exact = {level: 0.25 / (1 + math.exp(level) * 0.25) for level in (-1, 3)}
    for space, gain in {"_x0": lambda snr: 1, "_eps": lambda snr: snr, "": lambda snr: 1 + snr}.items():
        for level, variance in exact.items():
            expected = gain(math.exp(level)) * variance
            assert float(named[f"loss{space}_log_snr{level:+g}"]) == pytest.approx(expected, rel=0.11)
        both = [named[f"loss{space}_log_snr{level:+g}"] for level in exact]
        assert float(named[f"loss{space}"]) == pytest.approx(float(sum(both)) / 2)


def test_validation_logs_levels_of_averaged_and_raw_weights(tmp_path):
    model, run = fit(tmp_path, 4, settings={"val_check_interval": 4})
    names = {f"{n}/loss{level}" for n in ("val", "val_raw") for level in ("", "_log_snr-5", "_eps_log_snr+7", "_x0")}
    assert names <= run.callback_metrics.keys()
    assert float(run.callback_metrics["val/loss"]) != float(run.callback_metrics["val_raw/loss"])
    (batch,) = digits().val_dataloader()
    batch = batch._replace(images=digits().codec.encode(batch.images))
    seen = batch.images, batch.labels, batch.index
    model.network.eval()
    raw = torch.stack(list(LevelLoss()(model.denoiser, *seen).values())).mean()
    model.network.train()
    with model.ema_weights():
        averaged = torch.stack(list(LevelLoss()(model.denoiser, *seen).values())).mean()
    assert model.network.training
    assert float(run.callback_metrics["val/loss"]) == pytest.approx(float(averaged), rel=1e-5)
    assert float(run.callback_metrics["val_raw/loss"]) == pytest.approx(float(raw), rel=1e-5)


def test_checkpoints_hold_plain_containers_and_tell_everything(tmp_path):
    model, _ = fit(tmp_path, 3, callbacks=[SaveCheckpoint(str(tmp_path), every_n_steps=2)], dropout=0.2)
    assert sorted(f.name for f in tmp_path.glob("*.ckpt*")) == ["last.ckpt", "previous.ckpt"]
    assert not list(tmp_path.glob(".*tmp"))
    contents = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert contents["global_step"] == 3
    metadata = Metadata.from_dict(contents["metadata"])
    assert metadata.network == model.network.spec
    assert metadata.dropout == {"class": 0.2}
    assert metadata.path == {"name": "LinearFlow", "time_scale": 1000.0}
    assert metadata.kind == "velocity"
    assert metadata.class_names == list("0123456789")
    assert metadata.codec == {"name": "Pixels", "mean": 0.5, "std": 0.5}
    assert metadata.config == {"note": "tiny"}
    assert (metadata.ditlab, metadata.torch) == (version("ditlab"), torch.__version__)
    assert set(contents["ema"]["averages"]) == {"0.9", "0.5"}


def test_loading_gives_raw_and_every_average(tmp_path):
    model, _ = fit(tmp_path, 3, callbacks=[SaveCheckpoint(str(tmp_path), every_n_steps=3)])
    file = tmp_path / "last.ckpt"
    raw, first, second = (load(file, weights) for weights in ("raw", "ema", "0.5"))
    assert [loaded.weights for loaded in (raw, first, second)] == ["raw", "ema 0.9", "ema 0.5"]
    name = "final.linear.weight"
    live = model.network.state_dict()[name]
    assert torch.equal(raw.network.state_dict()[name], live)
    assert torch.equal(second.network.state_dict()[name], model.ema.averages["0.5"][name])
    assert not torch.equal(first.network.state_dict()[name], live)
    with pytest.raises(ValueError, match=r"weights must be ema, raw or one of 0\.9, 0\.5, got '0\.77'"):
        load(file, "0.77")


def test_compiled_training_writes_the_same_names_and_resumes_eager(tmp_path):
    save = [SaveCheckpoint(str(tmp_path / name), every_n_steps=2) for name in ("compiled", "eager")]
    fit(tmp_path, 2, callbacks=save[:1], compile="aot_eager")
    fit(tmp_path, 2, callbacks=save[1:])
    compiled, eager = (torch.load(tmp_path / n / "last.ckpt", weights_only=True) for n in ("compiled", "eager"))
    assert list(compiled["state_dict"]) == list(eager["state_dict"])
    fit(tmp_path, 3, resume=tmp_path / "compiled" / "last.ckpt")


def test_resuming_another_model_is_refused(tmp_path):
    fit(tmp_path, 1, callbacks=[SaveCheckpoint(str(tmp_path), every_n_steps=1)])
    with pytest.raises(ValueError, match=r"cannot resume: the checkpoint's network is .*'hidden_size': 16"):
        fit(tmp_path, 2, resume=tmp_path / "last.ckpt", hidden_size=32)


def test_files_that_are_no_checkpoint_are_refused_in_a_sentence(tmp_path):
    fit(tmp_path, 1, callbacks=[SaveCheckpoint(str(tmp_path), every_n_steps=1)])
    whole = (tmp_path / "last.ckpt").read_bytes()
    for name, content in {"half": whole[: len(whole) // 2], "empty": b"", "text": b"hello there"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"checkpoint=.*{name} cannot be read .* truncated or no checkpoint"):
            read(tmp_path / name)
    torch.save({"model": {}}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"checkpoint=.*other is of another kind: it has no state_dict, ema, metadata"):
        read(tmp_path / "other")
    with pytest.raises(ValueError, match=r"checkpoint=.*nothing does not exist"):
        read(tmp_path / "nothing")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    _, run = fit(tmp_path, 1, callbacks=[SaveCheckpoint(str(tmp_path), every_n_steps=1)])
    before = (tmp_path / "last.ckpt").read_bytes()

    def disk_full(contents, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("dit.training.checkpoints.torch.save", disk_full)
    with pytest.raises(ValueError, match=r"cannot write the checkpoint .*last\.ckpt: disk full; earlier ones are kept"):
        run.save_checkpoint(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert not list(tmp_path.glob(".*tmp"))


def test_preview_and_a_loaded_checkpoint_draw_the_same_images(tmp_path):
    sampler = Sampler(steps=3, guidance=CFG(2.0), seed=4, batch_size=6)
    preview = Preview(str(tmp_path), sampler, every_n_steps=5, classes=10, per_class=2)
    fit(tmp_path, 5, callbacks=[preview, SaveCheckpoint(str(tmp_path), every_n_steps=5)])
    loaded = load(tmp_path / "last.ckpt")
    labels = loaded.labels(None, 2)
    x0 = torch.cat([b.x0 for b in sampler.batches(loaded.denoiser, labels, loaded.shape)])
    sheet = contact_sheet(digits().codec.decode(x0), columns=2)
    with Image.open(tmp_path / "step_0000005.png") as shown:
        pixels = torch.tensor(list(shown.convert("L").tobytes())).reshape(shown.height, shown.width)
    assert torch.equal(pixels, sheet[0].long())


@pytest.mark.parametrize("network", [{"dropout": 0.0}, {"num_classes": 0}])
def test_a_model_without_a_null_class_is_previewed_without_guidance_and_says_so(tmp_path, network, caplog):
    preview = Preview(str(tmp_path), Sampler(steps=2, guidance=CFG(2.0)), every_n_steps=1, classes=2, per_class=1)
    fit(tmp_path, 1, callbacks=[preview], **network)
    assert "previews are made without guidance" in caplog.text
    assert (tmp_path / "step_0000001.png").is_file()


def test_learning_rates_rise_and_fall():
    def rates(schedule, steps):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
        scheduler = schedule(optimizer)
        out = []
        for _ in range(steps):
            out.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return out

    assert rates(lambda o: constant(o, warmup=4), 6) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    falling = rates(lambda o: cosine(o, total=10, warmup=2, final=0.1), 12)
    assert falling[:3] == pytest.approx([1.0, 2.0, 2.0])
    assert falling[6] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert falling[10:] == pytest.approx([0.2, 0.2])
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    for schedule in (constant, partial(cosine, total=10), partial(wsd, total=10)):
        for warmup in (-1, 1.5, None, True):
            with pytest.raises(ValueError, match=r"lr_schedule\.warmup must be a whole number of at least 0, got"):
                schedule(optimizer, warmup=warmup)
    for final in (-1, 1.1, float("nan"), "0"):
        with pytest.raises(ValueError, match=r"lr_schedule\.final must be a finite number from 0 to 1"):
            cosine(optimizer, total=10, final=final)
    with pytest.raises(ValueError, match=r"lr_schedule\.total must exceed lr_schedule\.warmup=5, got 5"):
        cosine(torch.optim.SGD([torch.zeros(1)], lr=1.0), total=5, warmup=5)


def test_ranks_and_accumulated_batches_share_the_strata_of_a_batch(monkeypatch):
    """Two ranks with two batches of 4 each draw one time in each of 16 strata."""
    drawn = []
    for rank in (0, 1):
        for index in (6, 7):
            model = module(digits(), times=Uniform())
            monkeypatch.setattr(type(model), "global_rank", rank)
            model.log = lambda *a, **k: None
            loop = SimpleNamespace(total_batch_idx=index)
            model._trainer = SimpleNamespace(
                fit_loop=loop, global_step=3, world_size=2, accumulate_grad_batches=2, log_every_n_steps=50
            )
            monkeypatch.setattr(
                model, "losses", lambda x0, y, r, told: drawn.append(r.t) or Losses(r.eps.mean((1, 2, 3)))
            )
            model.training_step(Batch(torch.zeros(4, 1, 8, 8), torch.zeros(4).long(), torch.arange(4)), 0)
    assert sorted((torch.cat(drawn) * 16).floor().long().tolist()) == list(range(16))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"gradient_clip_val": -1},
            r"trainer\.gradient_clip_val must be a finite number of at least 0 or null, got -1",
        ),
        ({"gradient_clip_val": float("nan")}, r"trainer\.gradient_clip_val must be a finite number .*, got nan"),
        ({"gradient_clip_val": "1"}, r"trainer\.gradient_clip_val must be a finite number .*, got '1'"),
        ({"accumulate_grad_batches": 0}, r"trainer\.accumulate_grad_batches must be a whole number from 1 to"),
        ({"log_every_n_steps": 0}, r"trainer\.log_every_n_steps must be a whole number from 1 to .*, got 0"),
        ({"precision": "16-mixed"}, r"trainer\.precision=16-mixed skips steps whose gradients overflow"),
        ({"precision": 16}, r"trainer\.precision=16 skips steps"),
        ({"precision": "16-true"}, r"bf16-mixed and 32-true are allowed"),
    ],
)
def test_numbers_that_lightning_would_take_are_refused(settings, sentence):
    """Negative clipping turns every gradient round; half precision on a CPU becomes bfloat16 without a word."""
    with pytest.raises(ValueError, match=sentence):
        make_trainer(accelerator="cpu", max_steps=1, **settings)


def test_a_network_that_would_be_loaded_as_another_is_refused():
    class Doubled(DiT):
        def forward(self, *arguments, **conditions):
            return 2 * super().forward(*arguments, **conditions)

    data = digits()
    network = Doubled(image_size=8, channels=1, num_classes=10, patch_size=4, hidden_size=16, depth=1, num_heads=2)
    with pytest.raises(ValueError, match=r"model is a .*Doubled, which no checkpoint could name: write @register"):
        DiTModule(network, LinearFlow(), "velocity", LogitNormal(), MSE("velocity"), None, None, Ema([0.9]), data.facts)
