"""Training on augmented pictures: it resumes to the bit, the network is told, and samples are not augmented."""

import pytest
import torch

from data import Karras
from dit.checkpoint import Metadata, load
from dit.solvers import CFG, Sampler
from dit.training import Preview, SaveCheckpoint
from tests.checkpoint.ours import passport
from tests.training.tiny import assert_same, digits, module, state, trainer


def fit(folder, steps, augment=Karras(), resume=None, callbacks=(), data=None, settings=None, **network):  # noqa: B008
    data = digits(augment=augment, **(data or {}))
    model = module(data, **{"augment_dim": 0 if augment is None else 9, **network})
    run = trainer(folder, steps, callbacks, **(settings or {}))
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, run


@pytest.mark.parametrize("storages", [("memory", "memory"), ("memory", "device")])
def test_interrupted_training_equals_uninterrupted_bit_for_bit(tmp_path, storages):
    """12 steps against 7, save, load, 5 more; also where the pictures moved in between."""
    before, after = ({"storage": storage} for storage in storages)
    straight = fit(tmp_path / "a", 12, data=before)
    fit(tmp_path / "b", 7, callbacks=[SaveCheckpoint(str(tmp_path / "b"), every_n_steps=7)], data=before)
    torch.manual_seed(12345)
    resumed = fit(tmp_path / "c", 12, resume=tmp_path / "b" / "last.ckpt", data=after)
    assert_same(state(*straight), state(*resumed))


def test_the_network_is_told_and_learns_from_it(tmp_path):
    model, _ = fit(tmp_path, 5)
    fresh = module(digits(augment=Karras()), augment_dim=9)
    name = "augment_embed.weight"
    assert not torch.equal(model.network.state_dict()[name], fresh.network.state_dict()[name])
    gradient = model.network.augment_embed.weight.grad
    assert gradient.abs().amax(0)[0] > 0  # the x-flip of half of the pictures
    assert set(model.network.state_dict()) == set(model.ema.averages["0.9"])


def test_what_a_step_is_given_is_what_was_done(tmp_path):
    data = digits(augment=Karras(probability=0.5))
    model, seen = module(data, augment_dim=9), []
    losses = model.losses
    model.losses = lambda x0, y, drawn, told: seen.append((x0, told)) or losses(x0, y, drawn, told)
    step = model.training_step
    model.training_step = lambda batch, batch_idx: seen.append(batch) or step(batch, batch_idx)
    trainer(tmp_path, 1).fit(model, data)
    batch, (x0, told) = seen
    plain = data.codec.encode(torch.stack([data.train.read(i) for i in batch.index.tolist()]))
    assert torch.equal(x0, data.augment.transform(plain, told["augment"]))
    assert torch.equal(told["augment"], data.augment.condition(batch.draws))


def test_samples_and_validation_are_told_nothing(tmp_path):
    """Previews and a loaded checkpoint draw with condition zero; the same network without the layer draws the same."""
    given = []
    sampler = Sampler(steps=2, guidance=CFG(2.0), seed=4, batch_size=6)
    preview = Preview(str(tmp_path), sampler, every_n_steps=4, classes=2, per_class=1)
    save = SaveCheckpoint(str(tmp_path), every_n_steps=4)
    data = digits(augment=Karras())
    model = module(data, augment_dim=9)
    model.network.register_forward_pre_hook(lambda _, args, kwargs: given.append(kwargs), with_kwargs=True)
    trainer(tmp_path, 4, [preview, save], val_check_interval=4).fit(model, data)
    assert sum("augment" in kwargs for kwargs in given) == 4
    assert len(given) > 4 + 14
    assert (tmp_path / "step_0000004.png").is_file()
    loaded = load(tmp_path / "last.ckpt")
    assert loaded.metadata.conditions == {"augment": [9]}
    assert loaded.denoiser.optional == {"augment"}
    (batch,) = sampler.batches(loaded.denoiser, [1, 2], loaded.shape)
    assert batch.x0.isfinite().all()
    with torch.no_grad():
        loaded.network.augment_embed.weight.fill_(1e6)
    (again,) = sampler.batches(loaded.denoiser, [1, 2], loaded.shape)
    assert torch.equal(again.x0, batch.x0)


def test_accumulated_and_compiled_training_runs(tmp_path):
    fit(tmp_path, 2, settings={"accumulate_grad_batches": 2}, compile="aot_eager")


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (None, r"cannot resume: the checkpoint's network is .*'augment_dim': 9"),
        (
            Karras(probability=0.2),
            r"with data\.augment\.probability=0\.2: the checkpoint was trained with 0\.12, and",
        ),
        (Karras(y_flip=False), r"and another value would show other pictures"),
    ],
    ids=["none", "more often", "without y-flips"],
)
def test_resuming_with_another_augmentation_is_refused(tmp_path, augment, message):
    fit(tmp_path, 1, callbacks=[SaveCheckpoint(str(tmp_path), every_n_steps=1)])
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "again", 2, augment, resume=tmp_path / "last.ckpt")


@pytest.mark.parametrize(("augment", "dim", "told"), [(None, 9, 0), (Karras(), 0, 9), (Karras(), 5, 9)])
def test_a_network_that_is_told_something_else_is_refused(augment, dim, told):
    said = ["none" if numbers == 0 else rf"\[{numbers}\]" for numbers in (told, dim)]
    message = rf"condition augment: the pictures come with {said[0]}, the model takes {said[1]}"
    with pytest.raises(ValueError, match=message):
        module(digits(augment=augment), augment_dim=dim)


def test_checkpoints_of_before_there_was_augmentation_load_and_resume(tmp_path):
    straight = fit(tmp_path / "a", 4, augment=None)
    fit(tmp_path / "b", 2, augment=None, callbacks=[SaveCheckpoint(str(tmp_path / "b"), every_n_steps=2)])
    contents = torch.load(tmp_path / "b" / "last.ckpt", weights_only=True)
    contents["passport"] = passport(Metadata.from_dict(contents.pop("metadata")))
    del contents["passport"]["model"]["augment_dim"]
    del contents["Digits"]["augment"]
    torch.save(contents, tmp_path / "old.ckpt")
    assert load(tmp_path / "old.ckpt").network.augment_dim == 0
    assert_same(state(*straight), state(*fit(tmp_path / "c", 4, augment=None, resume=tmp_path / "old.ckpt")))
    with pytest.raises(ValueError, match=r"cannot resume: the checkpoint's network is .*'augment_dim': 0"):
        fit(tmp_path / "d", 4, resume=tmp_path / "old.ckpt")
