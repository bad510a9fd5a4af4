"""A training run small enough for a test, made of the real components."""

from functools import partial

import torch
from lightning import Trainer

from data import Digits
from dit.diffusion import LinearFlow, LogitNormal
from dit.model import DiT
from dit.objectives import MSE
from dit.training import DiTModule, Ema, RenamedCheckpointIO
from dit.training.schedule import cosine


def digits(batch_size=16, **changes):
    data = Digits(image_size=8, channels=1, num_classes=10, batch_size=batch_size, validation_images=32, **changes)
    data.setup()
    return data


FLOW = {"path": LinearFlow(), "kind": "velocity", "loss": MSE("velocity")}


def module(
    data,
    seed=0,
    compile=None,
    times=None,
    ema=None,
    lr_schedule=None,
    objective=FLOW,
    on_nonfinite=None,
    dropout=0.1,
    adapter=None,
    **network,
):
    torch.manual_seed(seed)
    sizes = {"image_size": 8, "channels": 1, "num_classes": data.num_classes}
    sizes |= {"patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2, **network}
    return DiTModule(
        network=DiT(**sizes),
        times=times or LogitNormal(),
        **objective,
        optimizer=partial(torch.optim.AdamW, lr=1e-2, fused=True),
        lr_schedule=lr_schedule or partial(cosine, total=50, warmup=3),
        ema=ema or Ema([0.9, 0.5]),
        facts=data.facts,
        pictures={"name": "Digits"},
        config={"note": "tiny"},
        seed=seed,
        compile=compile,
        on_nonfinite=on_nonfinite,
        dropout={"class": dropout},
        adapter=adapter,
    )


def trainer(folder, max_steps, callbacks=(), **changes):
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "check_val_every_n_epoch": None,
        "val_check_interval": 1000,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": bool(callbacks),
        "use_distributed_sampler": False,
        "gradient_clip_val": 1.0,
        "plugins": [RenamedCheckpointIO()],
    }
    return Trainer(default_root_dir=folder, max_steps=max_steps, callbacks=list(callbacks), **{**settings, **changes})


def state(module, fit):
    """All that a run leaves behind: weights, averages, optimiser, learning rate."""
    tensors = {f"weight/{k}": v.clone() for k, v in module.network.state_dict().items()}
    for decay, average in module.ema.averages.items():
        tensors |= {f"ema{decay}/{k}": v.clone() for k, v in average.items()}
    for index, entry in fit.optimizers[0].state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v).clone() for k, v in entry.items()}
    tensors["lr"] = torch.tensor(fit.optimizers[0].param_groups[0]["lr"])
    tensors["ema/steps"] = torch.tensor(module.ema.steps)
    return tensors


def assert_same(a, b):
    """Bit for bit."""
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different, f"{len(different)} of {len(a)} tensors differ, among them {different[:3]}"
