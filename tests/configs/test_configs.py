"""Every file of every group composes and builds what it names; unknown keys raise."""

import json
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.utils import get_class, instantiate
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf
from torch import nn

from data import Pictures
from dit.checkpoint import Model
from dit.diffusion import DiscreteVP, GaussianPath, TimeDistribution
from dit.evaluate import OnlineMetrics
from dit.metrics import Dino, Inception
from dit.model import DiT
from dit.model.adapters import Adapter
from dit.objectives import Loss, Objective, as_objective
from dit.resolvers import register_resolvers
from dit.solvers import Guidance, Sampler, Solver, make_grid
from dit.solvers.sample import describe
from dit.training import Averages, FullySharded, LevelLoss
from dit.training.preview import Preview
from tests.checkpoint.ours import METADATA, checkpoint
from tests.data.test_data import tree  # noqa: F401

CONFIGS = Path(__file__).parents[2] / "configs"


NEED_CUDA = ("gpu",)  # trainers that no machine without a GPU can build: here on the CPU


def options(group):
    return sorted(f.stem for f in (CONFIGS / group).glob("*.yaml"))


ALL = [(group.name, name) for group in sorted(CONFIGS.iterdir()) if group.is_dir() for name in options(group.name)]


def composed(*overrides, name="train"):
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(name, [*overrides, "hydra.runtime.output_dir=unused"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return config


# A compose takes half a second, so the i-th files of all groups are composed together. Some must have one of their own:
# they set what other groups do, are of another script, or take another loss for granted.
APART = ("experiment", "debug", "features", "loss")
TOGETHER = [
    {group: names[i] for group, names in grouped.items() if i < len(names)}
    for grouped in [{group: options(group) for group, _ in ALL if group not in (*APART, "hydra")}]
    for i in range(max(map(len, grouped.values())))
]
COMPOSES = [*TOGETHER, *({group: name} for group, name in ALL if group in APART)]


def test_every_file_of_every_group_is_composed():
    composed = [choice for files in COMPOSES for choice in files.items()]
    assert sorted(composed) == [choice for choice in ALL if choice[0] != "hydra"]


@pytest.mark.parametrize("files", COMPOSES, ids=lambda files: ",".join(map("=".join, files.items())))
def test_every_file_of_every_group_composes_and_builds(files, tree, made, tmp_path):  # noqa: F811
    roots = {"folder": tree, "imagenet": tree, "latents": made}
    changes = [f"{group}={name}" for group, name in files.items()]
    changes += [f"data.root={roots[files['data']]}"] if files.get("data") in roots else []
    changes += ["experiment=digits"] if "debug" in files else []
    if files.get("guidance") == "autoguidance":
        changes += [f"guidance.weak.file={checkpoint(tmp_path / 'weak.ckpt')}"]
    changes += ["+sampler.batch_size=1"] if files.get("solver") == "dopri5" else []
    changes += ["data.image_size=256"] if files.get("model", "").startswith("jit") else []
    changes += ["diffusion=ddpm_linear"] if files.get("loss") == "hybrid_vlb" else []
    changes += ["trainer.accelerator=cpu"] if files.get("trainer") in NEED_CUDA else []
    config = composed(*changes, name="evaluate" if "features" in files else "train")
    wrong = {}
    for group, name in files.items():
        try:
            builds(group, name, config)
        except Exception as error:  # of all groups, each with its name
            wrong[f"{group}={name}"] = error
    assert not wrong


def builds(group, name, config):
    parameters = [nn.Parameter(torch.zeros(2, 2))]
    match group:
        case "data":
            data = instantiate(config.data)
            assert isinstance(data, Pictures)
            assert (config.model.num_classes, config.model.image_size) == (data.num_classes, data.image_size)
        case "augment":
            data = instantiate(config.data)
            assert (data.augment is None) == (name == "none")
            assert config.model.augment_dim == data.facts["conditions"].get("augment", [0])[0]
        case "model":
            if name == "default":
                return
            with torch.device("meta"):
                assert isinstance(instantiate(config.model), DiT)
        case "diffusion":
            path = instantiate(config.diffusion.path)
            assert isinstance(path, GaussianPath)
            assert len(make_grid(path, 3)) == 4
            assert instantiate(config.loss).space == config.diffusion.kind
        case "times":
            assert isinstance(instantiate(config.times), TimeDistribution)
        case "loss":
            loss = instantiate(config.loss)
            assert isinstance(loss, Loss | Objective)
            assert config.model.learn_variance is as_objective(loss).learns_variance
        case "optimizer":
            assert isinstance(instantiate(config.optimizer)(parameters), torch.optim.Optimizer)
        case "lr_schedule":
            optimizer = torch.optim.SGD(parameters, lr=1.0)
            assert instantiate(config.lr_schedule)(optimizer).get_last_lr()[0] > 0
        case "trainer":
            assert instantiate(config.trainer, logger=False).max_steps == config.trainer.max_steps
        case "ema":
            assert isinstance(instantiate(config.ema), Averages)
            assert ("snapshots" in instantiate(config.callbacks)) is (name == "power")
        case "callbacks":
            assert isinstance(instantiate(config.callbacks)["preview"], Preview)
        case "logger":
            assert config.logger is None or next(iter(config.logger)) == "csv"
        case "solver":
            assert isinstance(instantiate(config.solver), Solver)
            assert instantiate(config.sampler).solver == instantiate(config.solver)
        case "guidance":
            assert isinstance(instantiate(config.guidance), Guidance)
        case "grid" | "sampler":
            sampler = instantiate(config.sampler)
            assert isinstance(sampler, Sampler)
            assert len(sampler.grid(DiscreteVP.linear(zero_terminal_snr=True), 10)) == 11
        case "experiment" | "debug":
            sources = (CONFIGS / group / f"{name}.yaml").read_text()
            if group == "experiment":
                assert all(word in sources for word in ("Command:", "Hardware:", "Time:", "Expected:"))
            OmegaConf.to_container(config.data, resolve=True)
            OmegaConf.to_container(config.trainer, resolve=True)
        case "validation":
            assert isinstance(instantiate(config.validation), LevelLoss)
        case "features":
            assert name == "classifier" or get_class(config.features._target_) in (Dino, Inception)
        case "metrics":
            assert isinstance(instantiate(config.callbacks)["metrics"], OnlineMetrics)
        case "on_nonfinite":
            assert type(instantiate(config.on_nonfinite)).__name__.lower() == name
        case "adapter":
            assert isinstance(instantiate(config.adapter), Adapter | None)
        case "paths":
            assert config.paths.output_root == "outputs"
        case _:
            raise AssertionError(f"group {group} has no test")


@pytest.mark.parametrize("name", ["sample", "evaluate"])
@pytest.mark.parametrize(("solver", "guidance"), list(zip(options("solver"), cycle(options("guidance")), strict=False)))
def test_sampling_scripts_build_their_sampler(name, solver, guidance, tmp_path):
    more = [f"guidance.weak.file={checkpoint(tmp_path / 'weak.ckpt')}"] if guidance == "autoguidance" else []
    more += ["batch_size=1"] if solver == "dopri5" else []
    config = composed("checkpoint=x", f"solver={solver}", f"guidance={guidance}", "steps=7", "seed=3", *more, name=name)
    sampler = instantiate(config.sampler)
    assert (sampler.steps, sampler.seed, sampler.batch_size) == (7, 3, config.batch_size)
    json.dumps([describe(sampler.solver), describe(sampler.guidance)])
    assert describe(sampler.guidance.with_scale(3.5)) != describe(sampler.guidance)


def test_there_are_as_many_solvers_as_guidances():
    """Else the test above has not met every guidance."""
    assert len(options("solver")) >= len(options("guidance"))


@pytest.mark.parametrize("data", [name for name in options("data") if name != "latents"])
def test_augmentation_is_told_to_the_network_and_mirrors_itself(data, tree):  # noqa: F811
    root = [f"data.root={tree}"] if data in ("folder", "imagenet") else []
    config = composed(f"data={data}", "augment=karras", "data.augment.probability=0.3", *root)
    pictures = instantiate(config.data)
    assert (pictures.augment.probability, pictures.mirror, config.model.augment_dim) == (0.3, False, 9)
    assert instantiate(composed(f"data={data}", *root).data).augment is None


@pytest.mark.parametrize("override", ["model.dropout=0.1", "lr=1", "trainer.max_step=4", "data.batchsize=3"])
def test_unknown_keys_raise(override):
    with pytest.raises(ConfigCompositionException, match=r"Could not override|is not in struct"):
        composed(override)


def test_a_key_that_no_constructor_has_raises():
    with pytest.raises(Exception, match="unexpected keyword argument 'dropout_rate'"):
        instantiate(composed("+model.dropout_rate=0.1").model)


def test_facts_are_owned_by_the_data_and_batch_is_global():
    config = composed("data=cifar100")
    assert (config.model.num_classes, config.model.channels, config.model.image_size) == (100, 3, 32)
    assert config.trainer.use_distributed_sampler is False
    assert config.trainer.gradient_clip_val == 1.0
    assert composed("trainer.accumulate_grad_batches=4", "validate_every=10").trainer.val_check_interval == 40


@pytest.mark.parametrize(("name", "strategy"), [("ddp", DDPStrategy), ("fsdp", FullySharded), ("slurm", DDPStrategy)])
def test_trainers_of_many_processes_have_their_strategy(name, strategy, monkeypatch):
    monkeypatch.setenv("SLURM_NNODES", "3")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    built = instantiate(composed(f"trainer={name}", "trainer.accelerator=cpu").trainer, logger=False)
    assert isinstance(built.strategy, strategy)
    assert (built.num_nodes, built.num_devices) == ((3, 2) if name == "slurm" else (1, 1))
    assert built.precision == "32-true"


def test_precision_is_bfloat16_on_gpus_and_left_to_the_machine_elsewhere():
    names = ("default", "cpu", "gpu", "ddp", "fsdp", "slurm")
    found = {name: composed(f"trainer={name}").trainer.precision for name in names}
    assert found == {**dict.fromkeys(names, "auto"), "cpu": "32-true", "gpu": "bf16-mixed"}


RECIPES = [
    line.partition("#")[0].split()[2:]
    for line in (CONFIGS.parent / "docs" / "model.md").read_text().splitlines()
    if line.startswith("python train.py") and "finetune_from" not in line
]


@pytest.mark.parametrize("recipe", RECIPES, ids=" ".join)
def test_recipes_of_the_docs_build_a_network_that_fits_its_objective(recipe):
    config = composed(*recipe, "data.image_size=32")
    with torch.device("meta"):
        network = instantiate(config.model)
    loss, diffusion = instantiate(config.loss), instantiate(config.diffusion, _convert_="all")
    assert network.arguments["learn_variance"] is as_objective(loss).learns_variance
    assert isinstance(diffusion["path"], GaussianPath)
    t = instantiate(config.times).sample(4, diffusion["path"])
    assert ((t > 0) & (t < 1)).all()


def test_the_recipes_are_found():
    assert len(RECIPES) >= 6


def test_seed_zero_reaches_everything():
    config = composed("seed=0")
    assert (config.seed, config.data.seed, config.sampler.seed) == (0, 0, 0)


def test_labels_are_chosen_by_number_or_name():
    network = DiT(4, 1, 3, 2, 8, 1, 2)
    loaded = Model(network, None, replace(METADATA, class_names=["ant", "bee", "cat"]), "raw", 0)  # type: ignore[arg-type]
    assert loaded.labels(None, 2) == [0, 0, 1, 1, 2, 2]
    assert loaded.labels([2, "ant"], 1) == [2, 0]
    for bad in (3, -1, "dog", 1.5, True):
        with pytest.raises(ValueError, match=rf"classes must be labels 0 to 2 or names of ant, bee, cat; got {bad!r}"):
            loaded.labels([bad], 1)
    assert loaded.labels("cat", 1) == loaded.labels(2, 1) == [2]
    ambiguous = Model(network, None, replace(METADATA, class_names=["1", "2", "x"]), "raw", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"classes=1 is both label 1 \(class 2\) and the name of class 0"):
        ambiguous.labels([1], 1)
    assert ambiguous.labels(["1", 0, "x"], 1) == [0, 0, 2]
