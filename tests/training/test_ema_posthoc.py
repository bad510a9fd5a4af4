"""Snapshots of a run, and averages made up of them: against those tracked, exact when resumed, refused when too far."""

import shutil
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch

import dit.tensors
from dit.checkpoint import StoredMetadata, list_snapshots, load, reconstruct, write_snapshot
from dit.checkpoint.stored import read_safetensors
from dit.tensors import TensorFile
from dit.training import Ema, PowerEma, SaveCheckpoint, SaveSnapshots
from dit.training.posthoc_ema import main
from dit.training.schedule import constant
from tests.checkpoint.ours import METADATA
from tests.configs.test_configs import composed
from tests.test_scripts import run as script
from tests.training.tiny import assert_same, digits, module, state, trainer

TRACKED, OTHERS = [0.05, 0.1], [0.03, 0.07, 0.15, 0.2]


def fit(folder, steps, every, lengths=TRACKED, resume=None, accumulate=1, save=1000, dtype="float32", note=None):
    """A run in `folder` with snapshots and checkpoints, as train.py lays them out."""
    data = digits()
    model = module(data, ema=PowerEma(lengths), lr_schedule=partial(constant, warmup=3))
    model.metadata = replace(model.metadata, config={"note": note})
    callbacks = [
        SaveSnapshots(str(folder / "ema"), every, dtype),
        SaveCheckpoint(str(folder / "checkpoints"), every_n_steps=save),
    ]
    fitted = trainer(folder, steps, callbacks, accumulate_grad_batches=accumulate)
    fitted.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, fitted


def distance(a, b):
    """The norm of a - b as a share of that of b, all tensors together."""
    a, b = (torch.cat([tensors[name].flatten().double() for name in sorted(tensors)]) for tensors in (a, b))
    return float((a - b).norm() / b.norm())


def contents(folder):
    """Bit for bit; the order of a file's metadata is up to safetensors."""
    return {file.name: _plain(*read_safetensors(file, "file")) for file in folder.iterdir()}


def _plain(stored, tensors):
    return stored, {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in tensors.items()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run of 100 steps with 20 snapshots of two lengths."""
    folder = tmp_path_factory.mktemp("ran")
    fit(folder, 100, every=5)
    return folder


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """What the same run tracked when it was asked for other lengths."""
    model, _ = fit(tmp_path_factory.mktemp("tracked"), 100, every=1000, lengths=OTHERS + TRACKED)
    return {float(name.removeprefix("length ")): average for name, average in model.ema.averages.items()}


def test_lengths_never_tracked_are_those_tracked(ran, tracked):
    """Of 20 snapshots: measured 1e-4, 1e-5, 2e-5 and 6e-4 of the weights' norm, where the nearest tracked average is
    0.02 to 0.13 away."""
    for length, tolerance in zip(OTHERS, (5e-4, 4e-5, 8e-5, 2e-3), strict=True):
        error = distance(reconstruct(ran, length).state(), tracked[length])
        nearest = min(distance(tracked[other], tracked[length]) for other in TRACKED)
        assert error < tolerance < nearest / 10, (length, error, nearest)


def test_a_length_that_was_tracked_comes_back_at_every_snapshot(ran, tracked):
    assert distance(reconstruct(ran, 0.1).state(), tracked[0.1]) < 1e-6
    early = reconstruct(ran, 0.05, step=50)
    assert early.fit.residual < 1e-7
    assert (len(early.snapshots), early.stored.step, early.stored.weights) == (20, 50, "ema length 0.05")
    assert distance(early.state(), load(ran / "ema/step_0000050_length_0.05.safetensors").network.state_dict()) < 1e-6


def test_float16_costs_a_rounding_of_the_weights(ran, tmp_path):
    """Measured: 2e-4 of their norm at 0.07, 9e-4 at 0.03, whose coefficients are larger."""
    for snapshot in list_snapshots(ran / "ema"):
        average = dict(load(snapshot.file).network.state_dict())
        write_snapshot(tmp_path / "ema", average, snapshot.stored, torch.float16)
    for length, tolerance in ((0.07, 5e-4), (0.03, 3e-3)):
        assert distance(reconstruct(tmp_path, length).state(), reconstruct(ran, length).state()) < tolerance
    small, large = (sum(file.stat().st_size for file in (run / "ema").iterdir()) for run in (tmp_path, ran))
    assert small < 0.7 * large


def test_a_value_beyond_float16_stays(tmp_path):
    stored = StoredMetadata(METADATA, "ema length 0.05", 1)
    write_snapshot(tmp_path / "ema", {"a": torch.tensor([1e5, 1.0]), "b": torch.ones(2)}, stored, torch.float16)
    assert {k: v.tolist() for k, v in reconstruct(tmp_path, 0.05).state().items()} == {"a": [1e5, 1.0], "b": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("length", "step", "sentence"),
    [
        (0.01, None, r"length=0\.01 at step 100 cannot be made of the 40 snapshots of 0\.05, 0\.1 up to step 100 in "
                     r".*ema: the best sum is 30% off, at most 10% is allowed"),
        (0.28, None, r"the best sum is 18% off, at most 10% is allowed"),
        (0.05, 53, r"at step 53 cannot be made of the 20 snapshots .* up to step 50"),
        (0.05, 150, r"at step 150 cannot be made of the 40 snapshots .* up to step 100"),
        (0.05, 4, r"step=4 is before the first snapshot in .*ema, of step 5"),
        (0.3, None, r"length must be a share of the run above 0 and at most 0\.2887, got 0\.3"),
    ],
)  # fmt: skip
def test_what_snapshots_cannot_express_is_refused(ran, length, step, sentence):
    with pytest.raises(ValueError, match=sentence):
        reconstruct(ran, length, step)


def test_few_snapshots_are_refused_where_more_serve(ran, tmp_path):
    for file in (ran / "ema").glob("step_0000[01][05]0_*"):
        (tmp_path / "ema").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "ema")
    assert reconstruct(ran, 0.03).fit.residual < 0.03
    with pytest.raises(ValueError, match=r"length=0\.03 at step 100 cannot be made of the 4 snapshots"):
        reconstruct(tmp_path, 0.03)


def test_one_tensor_of_one_snapshot_is_in_memory_at_a_time(ran, monkeypatch):
    alive, most, read = weakref.WeakSet(), [], TensorFile.tensor

    def watched(file, name):
        tensor = read(file, name)
        alive.add(tensor)
        most.append(len(alive))
        return tensor

    made = reconstruct(ran, 0.07)
    monkeypatch.setattr(TensorFile, "tensor", watched)
    made.state()
    assert len(most) == 40 * len(load(ran / "checkpoints/last.ckpt").network.state_dict())
    assert max(most) == 1


def test_a_resumed_run_writes_the_same_averages_and_snapshots(tmp_path):
    """12 steps of two accumulated batches against 7, save, load, 5 more; the snapshots byte for byte."""
    straight = fit(tmp_path / "a", 12, every=4, accumulate=2)
    fit(tmp_path / "b", 7, every=4, accumulate=2)
    torch.manual_seed(12345)
    resumed = fit(tmp_path / "b", 12, every=4, accumulate=2, resume=tmp_path / "b/checkpoints/last.ckpt")
    assert straight[0].ema.steps == resumed[0].ema.steps == 12
    assert_same(state(*straight), state(*resumed))
    a, b = contents(tmp_path / "a/ema"), contents(tmp_path / "b/ema")
    assert len(a) == 3 * 2
    assert set(b) - set(a) == {f"step_0000007_length_{length}.safetensors" for length in TRACKED}  # where it ended
    assert {name: b[name] for name in a} == a


def test_snapshots_of_steps_made_again_are_removed_and_missing_ones_written(tmp_path):
    """A run killed at step 9 whose newest checkpoint is of step 4, killed once before its snapshot was written."""
    folder = tmp_path / "ema"
    fit(tmp_path, 4, every=2)
    before = contents(folder)
    for name in ("step_0000004_length_0.05", "step_0000009_length_0.1"):
        shutil.copy(folder / "step_0000002_length_0.05.safetensors", tmp_path / "copy")
        (folder / f"{name}.safetensors").unlink(missing_ok=True)
    metadata = list_snapshots(folder)[0].stored.metadata
    write_snapshot(folder, {"x": torch.ones(1)}, StoredMetadata(metadata, "ema length 0.1", 9), torch.float16)
    (folder / ".step_0000008_length_0.1.safetensors.77.tmp").write_bytes(b"half")  # in the middle of writing one
    fit(tmp_path, 6, every=2, resume=tmp_path / "checkpoints/last.ckpt")
    after = contents(folder)
    assert sorted({name[:12] for name in after}) == ["step_0000002", "step_0000004", "step_0000006"]
    assert {name: after[name] for name in before} == before


def test_snapshots_of_another_run_are_not_touched(tmp_path):
    fit(tmp_path, 4, every=2, note="first")
    before = contents(tmp_path / "ema")
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"ema holds snapshots of another run; choose another folder or remove them"):
        fit(tmp_path, 2, every=2, note="second")
    assert contents(tmp_path / "ema") == before
    fit(tmp_path, 4, every=2, note="first")  # the same command, killed before its first checkpoint
    assert contents(tmp_path / "ema") == before


def test_a_failed_write_leaves_the_old_snapshot(tmp_path, monkeypatch):
    stored = StoredMetadata(METADATA, "ema length 0.05", 1)
    write_snapshot(tmp_path, {"a": torch.ones(2)}, stored, torch.float32)
    before = contents(tmp_path)

    def torn(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(dit.tensors, "save_file", torn)
    with pytest.raises(ValueError, match=r"safetensors cannot be written: No space left"):
        write_snapshot(tmp_path, {"a": torch.zeros(2)}, stored, torch.float32)
    assert contents(tmp_path) == before


def test_a_torn_snapshot_is_named(ran, tmp_path):
    shutil.copytree(ran / "ema", tmp_path / "ema")
    file = tmp_path / "ema/step_0000050_length_0.1.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"snapshot=.*step_0000050_length_0\.1\.safetensors cannot be read \(1,000 bytes"
    ):
        reconstruct(tmp_path, 0.07)


def test_the_callback_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ValueError, match=r"every_n_steps must be a whole number of at least 1, got 0"):
        SaveSnapshots(str(tmp_path), 0)
    with pytest.raises(ValueError, match=r"callbacks\.snapshots\.dtype must be float16 or float32, got 'int8'"):
        SaveSnapshots(str(tmp_path), 1, "int8")
    data = digits()
    with pytest.raises(ValueError, match=r"callbacks\.snapshots needs ema=power: averages of constant decays make"):
        trainer(tmp_path, 1, [SaveSnapshots(str(tmp_path), 1)]).fit(module(data, ema=Ema([0.9])), data)


def test_the_command_writes_what_loads(ran, tracked, tmp_path, capsys):
    assert main([f"run={ran}", "length=0.07", f"out={tmp_path}/a.safetensors"]) == 0
    assert capsys.readouterr().out == f"40 snapshots up to step 100, 2.5e-03 off\n{tmp_path}/a.safetensors\n"
    loaded = load(tmp_path / "a.safetensors")
    assert (loaded.weights, loaded.step) == ("ema length 0.07", 100)
    assert loaded.metadata == load(ran / "checkpoints/last.ckpt").metadata
    assert distance(dict(loaded.network.state_dict()), tracked[0.07]) < 1e-4
    assert load(tmp_path / "a.safetensors", 0.07).weights == "ema length 0.07"
    with pytest.raises(ValueError, match=r"weights must be ema or length 0\.07 where a file has one set"):
        load(tmp_path / "a.safetensors", 0.05)

    shutil.copytree(ran / "ema", tmp_path / "run/ema")
    assert main([f"run={tmp_path}/run", "length=0.07", "step=75"]) == 0
    assert load(tmp_path / "run/ema_0.07_step_0000075.safetensors").step == 75
    capsys.readouterr()
    assert main([f"run={tmp_path}/run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 40
    assert listed[0].split()[:4] == ["step", "5", "length", "0.05"]


def test_a_checkpoint_in_its_run_folder_has_every_length(ran, tmp_path):
    """What sample.py and evaluate.py load by weights=0.07; 0.05 is tracked, however it is written."""
    last = ran / "checkpoints/last.ckpt"
    loaded = load(last, 0.07)
    assert (loaded.weights, loaded.step) == ("ema length 0.07", 100)
    expected = reconstruct(ran, 0.07).state()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.network.state_dict().items())
    assert [load(last, w).weights for w in ("ema", "0.10", "length 0.1", 0.05, "raw")] == [
        "ema length 0.05", "ema length 0.1", "ema length 0.1", "ema length 0.05", "raw",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"weights=0\.01 at step 100 cannot be made of"):
        load(last, 0.01)
    with pytest.raises(ValueError, match=r"weights must be ema, raw or one of length 0\.05, length 0\.1, got 'x'"):
        load(last, "x")
    shutil.copy(last, tmp_path / "alone.ckpt")
    with pytest.raises(ValueError, match=r"weights=0\.07 needs snapshots in .*; training with ema=power writes them"):
        load(tmp_path / "alone.ckpt", 0.07)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["run={ran}", "length=0.01"], "length=0.01 at step 100 cannot be made of"),
        (["run={ran}", "length=x"], "length must be a number, got 'x'"),
        (["run={ran}", "length=0.07", "step=1.5"], "step must be a number, got '1.5'"),
        (["run={ran}", "size=2"], "settings are run=, length=, step=, out= once each, got size=2"),
        (["length=0.07"], "give run=DIR length=0.05, or run=DIR alone to list its snapshots"),
        (["run={ran}", "step=10"], "give run=DIR length=0.05, or run=DIR alone to list its snapshots"),
        (["run=nowhere", "length=0.07"], "length=0.07 needs snapshots in nowhere/ema; training with ema=power"),
        (["run={ran}", "length=0.07", "out={ran}/a.pt"], "must end in .safetensors"),
        (["run={ran}", "length=0.07", "out={ran}/ema/step_0000005_length_0.1.safetensors"], "is there already"),
    ],
)
def test_mistakes_at_the_command_are_one_sentence(ran, given, sentence, capsys):
    before = contents(ran / "ema")
    assert main([part.format(ran=ran) for part in given]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert sentence in said.err
    assert contents(ran / "ema") == before


@pytest.mark.parametrize("name", ["sample", "evaluate"])
def test_scripts_take_a_length_by_ema(name):
    """A group of that name would make Hydra look for a file."""
    given = {"": "ema", "weights=0.07": 0.07, "weights=raw": "raw", "weights=0.999": 0.999}
    for override, weights in given.items():
        assert composed(*[override] * bool(override), "checkpoint=x", name=name).weights == weights


@pytest.mark.slow
def test_a_run_with_snapshots_is_sampled_and_scored_at_any_length(tmp_path):
    run = tmp_path / "run"
    script(
        "train.py", "experiment=digits", "debug=fast", "ema=power", "trainer.max_steps=12",
        "callbacks.snapshots.every_n_steps=1", f"hydra.run.dir={run}",
    )  # fmt: skip
    assert len(list_snapshots(run / "ema")) == 24
    last = f"checkpoint={run}/checkpoints/last.ckpt"
    script("sample.py", last, "weights=0.07", "steps=1", "per_class=1", f"out={tmp_path}/pictures")
    assert '"weights": "ema length 0.07"' in (tmp_path / "pictures/samples.json").read_text()
    assert "ema length 0.15" in script("evaluate.py", last, "weights=0.15", "images=20", "steps=1", f"cache={tmp_path}")
    said = script("sample.py", last, "weights=0.001", f"out={tmp_path}/none", ok=False)
    assert "error: weights=0.001 at step 12 cannot be made of the 24 snapshots" in said
    assert not (tmp_path / "none").exists()
