"""Strict surroundings for every test: fixed seed, one thread, nothing compiled, no network, nothing left behind."""

import os
import sys

import pytest
import torch

from tests.as_found import as_found

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start: several run side by side
os.environ.setdefault("DITLAB_JOB_SECRET", "a secret of the tests")  # else torchrun makes one in the home folder
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


@pytest.fixture(autouse=True)
def surroundings():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # what is compiled must not depend on the tests before
    with as_found():
        yield
    torch.set_default_dtype(torch.float32)


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA: `make gpu` runs it where there is some"))


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    """The folder of a small autoencoder with random weights."""
    from tests.data.caches import save_vae

    return save_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="session")
def made(tmp_path_factory, vae):
    """A latent cache of 50 + 5 made-up pictures."""
    from tests.data.caches import PICTURES, cache

    torch.set_num_threads(1)  # as in the tests: the last bit depends on it
    out = tmp_path_factory.mktemp("made") / "cache"
    cache(out, vae, source={"_target_": "data.Synthetic", **PICTURES})
    return out
