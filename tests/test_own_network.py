"""A network of one's own, in a file outside of the project, goes through everything that a DiT does."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dit.checkpoint import export_safetensors, load
from dit.diffusion import Denoiser, LinearFlow, LogitNormal
from dit.imports import import_modules
from dit.model import Condition, DiT, Network, name_of, network_from_spec, register
from dit.model.count import count
from dit.objectives import MSE, Denoising, Losses, Objective
from dit.solvers import CFG, Euler, ImageNoise, Sampler, UniPC
from dit.solvers.guidance import COND, Pass
from dit.solvers.guidance.rule import Linear
from dit.training import DiTModule, Ema, SaveCheckpoint
from tests.training.tiny import FLOW, assert_same, digits, state, trainer

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your_network.md").read_text()
FILES = dict(re.findall(r'```python title="(\w+\.py)"\n(.*?)```', PAGE, re.DOTALL))
CONFIG = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The folder of somebody with the page's files."""
    folder = tmp_path_factory.mktemp("mine")
    for name, code in FILES.items():
        (folder / name).write_text(code)
    (folder / "my_configs" / "model").mkdir(parents=True)
    (folder / "my_configs" / "model" / "my_unet.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def my_nets(mine, monkeypatch):
    monkeypatch.syspath_prepend(mine)
    return importlib.import_module("my_nets")


def module(network, data, loss=FLOW["loss"], **changes):
    return DiTModule(
        network,
        FLOW["path"],
        "velocity",
        LogitNormal(),
        loss=loss,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        lr_schedule=lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 1),
        ema=Ema([0.9]),
        facts=data.facts,
        **changes,
    )


def fit(folder, network, steps, resume=None, callbacks=(), data=None, **changes):
    data = digits(16) if data is None else data
    model = module(network, data, **changes)
    run = trainer(folder, steps, callbacks)
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, run


def unet(my_nets, seed=0):
    torch.manual_seed(seed)
    return my_nets.MyUNet(8, 1, num_classes=10, width=16)


def test_it_trains_resumes_bit_for_bit_loads_samples_and_is_exported(my_nets, tmp_path):
    straight = fit(tmp_path / "a", unet(my_nets), 6)
    fit(tmp_path / "b", unet(my_nets), 3, callbacks=[SaveCheckpoint(str(tmp_path / "b"), 3)])
    resumed = fit(tmp_path / "c", unet(my_nets, seed=1), 6, tmp_path / "b" / "last.ckpt")
    assert_same(state(*straight), state(*resumed))
    loaded = load(tmp_path / "b" / "last.ckpt")
    spec = {"name": "my_unet", "image_size": 8, "channels": 1, "num_classes": 10, "width": 16}
    assert type(loaded.network) is my_nets.MyUNet
    assert loaded.metadata.network == spec == loaded.network.spec
    assert count(spec)[0] == sum(p.numel() for p in loaded.network.parameters())
    sampler = Sampler(steps=3, solver=UniPC(2), guidance=CFG(2.0))
    (out,) = sampler.batches(loaded.denoiser, [1, 2], loaded.shape)
    assert out.x0.isfinite().all()
    export_safetensors(loaded, tmp_path / "x.safetensors")
    (again,) = sampler.batches(load(tmp_path / "x.safetensors").denoiser, [1, 2], loaded.shape)
    assert torch.equal(out.x0, again.x0)


def test_a_subclass_does_not_pass_for_its_parent():
    @register("doubled")
    class Doubled(DiT):
        def forward(self, *arguments, **told):
            return 2 * super().forward(*arguments, **told)

    sizes = {"image_size": 8, "channels": 1, "num_classes": 10, "hidden_size": 16, "depth": 1, "num_heads": 2}
    network = Doubled(**sizes)
    assert (network.spec["name"], name_of(DiT)) == ("doubled", "dit")
    assert type(network_from_spec(network.spec)) is Doubled
    with pytest.raises(ValueError, match=r"model doubled is .*Doubled already; choose another name"):
        register("doubled")(type("Other", (DiT,), {}))


SIZES = {"name": "dit", "image_size": 8, "channels": 1, "num_classes": 2}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (3, "network must be a mapping with a name, got 3"),
        ({"name": "nothing"}, r"network is named 'nothing', of which nothing is known here; known are .*dit.*imports="),
        (SIZES | {"wings": 2}, "network dit does not take 'wings'"),
        (SIZES | {"num_classes": "x"}, "num_classes of network dit must be a whole number, got 'x'"),
        ({"name": "dit", "image_size": 8, "channels": 1}, "network dit lacks num_classes"),
        (SIZES | {"attention": "sdpa"}, "network does not take attention, which is a run's"),
    ],
)
def test_specs_that_name_nothing_are_refused(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        network_from_spec(spec)


@pytest.mark.parametrize("names", [["no_such_module_of_mine"], "my_nets", [3], ["a b"], {"a": 1}], ids=str)
def test_imports_that_cannot_be_are_one_sentence(names):
    with pytest.raises(ValueError, match=r"^imports(=no_such_module_of_mine cannot be imported| must be a list)"):
        import_modules(names)


class Hinted(Network):
    """Told a hint of the picture and how far to go, each of which training may drop."""

    conditions = {"hint": Condition((1, 8, 8)), "until": Condition(())}  # noqa: RUF012

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.sample_shape, self.num_classes = (1, 8, 8), num_classes
        self.scale, self.seen = torch.nn.Parameter(torch.ones(3)), []

    def forward(self, x, time, labels, hint=None, until=None, absent=None):
        self.seen.append((labels, hint, until, absent))
        total = self.scale[0] * x
        for name, value, scale in (("hint", hint, self.scale[1]), ("until", until, self.scale[2])):
            if value is not None:
                gone = (absent or {}).get(name, torch.zeros(len(x), dtype=torch.bool))[:, None, None, None]
                total = total + torch.where(gone, 0, scale * value.view(len(x), -1, *value.shape[2:] or (1, 1)))
        return total


register("hinted")(Hinted)


def test_conditions_travel_from_the_data_to_the_network_and_are_dropped_each_at_its_rate(tmp_path, monkeypatch):
    data = digits(16)
    facts = data.facts | {"conditions": {"hint": [1, 8, 8], "until": []}}
    after = data.on_after_batch_transfer
    monkeypatch.setattr(type(data), "facts", facts)
    data.on_after_batch_transfer = lambda batch, index: (batch := after(batch, index))._replace(
        conditions={"hint": batch.images.tril(), "until": batch.labels.float()}
    )
    rates = {"class": 0.1, "hint": 0.5, "until": 0.0}
    save = SaveCheckpoint(str(tmp_path), 40)
    model, _ = fit(tmp_path, Hinted(), 40, data=data, dropout=rates, callbacks=[save])
    shares = {"hint": [], "class": []}
    for labels, hint, until, absent in model.network.seen[:40]:
        assert set(absent) == {"hint"}  # until is never dropped
        shares["hint"].append(absent["hint"])
        shares["class"].append(labels == 10)
        assert hint.shape == (16, 1, 8, 8)
        assert until.shape == (16,)
    for name, rate in (("hint", 0.5), ("class", 0.1)):
        assert abs(float(torch.cat(shares[name]).float().mean()) - rate) < 4 * (rate * (1 - rate) / 640) ** 0.5
    loaded = load(tmp_path / "last.ckpt")
    assert loaded.denoiser.optional == {"hint"}
    given = {"hint": torch.ones(2, 1, 8, 8), "until": torch.zeros(2)}
    (out,) = Sampler(steps=2, guidance=CFG(2.0)).batches(loaded.denoiser, [1, 2], loaded.shape, conditions=given)
    assert out.spec["conditions"] == ["hint", "until"]
    labels, hint, until, absent = loaded.network.seen[0]
    assert labels.tolist() == [1, 2, 10, 10]
    assert absent["hint"].tolist() == [False, False, True, True]  # CFG drops what may be dropped
    assert len(hint) == len(until) == 4
    for changes, sentence in (
        ({"hint": None}, None),
        ({"until": None}, r"condition until must be given: the network was always told it in training"),
        ({"until": torch.zeros(3)}, r"condition until must be a tensor of 2 images, one a row, got \(3,\)"),
        ({"hint": torch.ones(2, 8, 8)}, r"condition hint must have shape \(2, 1, 8, 8\), .*, got \(2, 8, 8\)"),
        ({"wings": torch.ones(2)}, r"condition wings is not known to the network; it takes hint, until"),
    ):
        conditions = {name: value for name, value in (given | changes).items() if value is not None}
        batches = Sampler(steps=2).batches(loaded.denoiser, [1, 2], loaded.shape, conditions=conditions)
        if sentence is None:
            assert next(batches).x0.isfinite().all()
        else:
            with pytest.raises(ValueError, match=sentence):
                next(batches)


class Nested(Linear):
    """uncond + 1.5 (hint - uncond) + 3 (both - hint): guidance over two conditions, in ten lines."""

    def check(self, denoiser, labels):
        pass

    def with_scale(self, scale):
        return self

    def weights(self, stage):
        return {COND: 3.0, Pass(None): 1.5 - 3.0, Pass(None, drop=frozenset({"hint"})): 1 - 1.5}


@pytest.mark.parametrize("max_rows", [None, 1, 4, 5])
def test_guidance_over_two_conditions_is_a_table_of_weights(max_rows):
    network = Hinted()
    denoiser = Denoiser(network, LinearFlow(), "x0", 10, optional=frozenset({"hint"}))
    conditions = {"hint": torch.randn(2, 1, 8, 8), "until": torch.tensor([1.0, 2.0])}
    sampler = Sampler(steps=1, solver=Euler(), guidance=Nested(), max_rows=max_rows)
    (out,) = sampler.batches(denoiser, [1, 2], (1, 8, 8), conditions=conditions)
    assert out.nfe.rows == 3
    x = ImageNoise(0, range(2), (1, 8, 8)).draw()
    plain = x + conditions["until"].view(2, 1, 1, 1)
    torch.testing.assert_close(out.x0, plain + 1.5 * conditions["hint"])
    never = Denoiser(network, LinearFlow(), "x0", 10, optional=frozenset())
    with pytest.raises(ValueError, match=r"drops condition hint, which training never did \(dropout\.hint 0\)"):
        next(sampler.batches(never, [1, 2], (1, 8, 8), conditions=conditions))


def test_an_objective_may_ask_for_features_and_says_its_parts(mine, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(mine)
    quiet = importlib.import_module("my_objectives").Quiet()
    sizes = {"image_size": 8, "channels": 1, "num_classes": 10, "patch_size": 4, "hidden_size": 16, "depth": 2}
    torch.manual_seed(0)
    runs = {}
    for name, options in {"plain": {}, "recomputed": {"activation_checkpointing": 1}, "compiled": {}}.items():
        torch.manual_seed(0)
        network = DiT(**sizes, num_heads=2, **options)
        compile = "aot_eager" if name == "compiled" else None
        _, run = fit(tmp_path / name, network, 3, loss=quiet, compile=compile)
        runs[name] = {key: value.detach().clone() for key, value in network.state_dict().items()}
        assert float(run.callback_metrics["train/loss/size"]) > 0
    for name in ("recomputed", "compiled"):
        for key, value in runs["plain"].items():
            torch.testing.assert_close(runs[name][key], value, rtol=1e-4, atol=1e-6)
    torch.manual_seed(0)
    other, _ = fit(tmp_path / "other", DiT(**sizes, num_heads=2), 3)
    name = "patch_embed.weight"
    assert not torch.equal(other.network.state_dict()[name], runs["plain"][name])
    with pytest.raises(ValueError, match="asks for the network's feature block_0, but it has none"):
        module(Hinted(), _told(digits()), loss=quiet)


def test_an_adapter_of_ones_own_is_trained_alone_and_loaded_again(mine, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(mine)
    adapter = importlib.import_module("my_adapters").LowRank(2)
    torch.manual_seed(0)
    network = DiT(8, 1, 10, patch_size=4, hidden_size=16, depth=1, num_heads=2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    model, _ = fit(tmp_path, network, 3, callbacks=[SaveCheckpoint(str(tmp_path), 3)], adapter=adapter)
    after = model.network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert after.keys() - before.keys() == model.ema.averages["0.9"].keys()
    loaded = load(tmp_path / "last.ckpt", "raw").network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in after.items())


def _told(data):
    return type("Told", (), {"facts": data.facts | {"conditions": {"hint": [1, 8, 8], "until": []}}})


class TwoTimes(Objective):
    """Of a network with two times: how far to go is a condition that the objective makes itself."""

    def __call__(self, denoiser, x0, eps, t, labels, conditions, absent):
        return Denoising(MSE("velocity"))(denoiser, x0, eps, t, labels, {**conditions, "until": t / 2}, absent)


def test_an_objective_may_tell_the_network_what_the_data_do_not():
    data = _told(digits())
    model, batch = module(Hinted(), data, loss=TwoTimes()), torch.randn(4, 1, 8, 8)
    drawn = model.draw(torch.arange(4), 4, batch)
    losses = model.losses(batch, torch.zeros(4).long(), drawn, {"hint": batch})
    assert isinstance(losses, Losses)
    assert torch.equal(model.network.seen[0][2], drawn.t / 2)


def command(mine, script, *arguments, check=True):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}
    call = [sys.executable, *([str(ROOT / script)] if script.endswith(".py") else ["-m", script]), *map(str, arguments)]
    done = subprocess.run(call, cwd=mine, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


TRAIN = ["--config-dir", "my_configs", "imports=[my_nets]", "experiment=digits", "model=my_unet", "debug=fast"]


def test_the_commands_know_it_by_imports_alone(mine, tmp_path):
    command(mine, "train.py", *TRAIN, f"hydra.run.dir={tmp_path}/run", "model.width=16")
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    sampling = [f"checkpoint={file}", "solver=unipc", "guidance=tnr", "steps=2", "per_class=1", f"out={tmp_path}/out"]
    refused = command(mine, "sample.py", *sampling, check=False)
    assert refused.returncode == 1
    assert "network is named 'my_unet', of which nothing is known here; known are dit" in refused.stderr
    assert refused.stderr.count("error: ") == 1
    command(mine, "sample.py", *sampling, "imports=[my_nets]")
    assert len(list((tmp_path / "out").glob("*.png"))) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [[], ["trainer.devices=2"], ["trainer=fsdp", "trainer.devices=2"]], ids=str)
def test_killed_resumed_swept_scored_and_exported_by_commands_alone(mine, tmp_path, strategy):
    run, more = tmp_path / "run", ["trainer.accelerator=cpu", "trainer.max_steps=30", "validate_every=10", *strategy]
    call = [sys.executable, ROOT / "train.py", *TRAIN[:-1], *more, f"hydra.run.dir={run}"]
    call += ["callbacks.checkpoint.every_n_steps=5", "lr_schedule.warmup=1", "callbacks.preview.every_n_steps=30"]
    killed = subprocess.Popen(list(map(str, call)), cwd=mine, start_new_session=True)
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert killed.poll() is None
        time.sleep(0.2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = subprocess.run(list(map(str, call)), cwd=mine, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file = run / "checkpoints" / "last.ckpt"
    assert "resuming" in done.stdout
    if strategy:
        return
    command(
        mine,
        "evaluate.py",
        "imports=[my_nets]",
        f"checkpoint={file}",
        "images=40",
        "steps=2",
        f"cache={tmp_path}/cache",
    )
    command(mine, "train.py", "-m", *TRAIN, "model.width=16,32", f"hydra.sweep.dir={tmp_path}/sweep")
    assert (tmp_path / "sweep" / "report.html").is_file()
    command(mine, "dit.checkpoint", "export", "--import", "my_nets", file, tmp_path / "x.safetensors")
