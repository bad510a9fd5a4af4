"""Two gloo processes give the gradient of one process on the joint batch."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dit.training.module import Randomness
from tests.training.processes import two
from tests.training.tiny import digits, module


def inputs():
    generator = torch.Generator().manual_seed(2)
    x0, eps = torch.randn(2, 8, 1, 8, 8, generator=generator)
    return x0, torch.arange(8), torch.rand(8, generator=generator), eps


def gradient(model, rows):
    x0, labels, t, eps = (tensor[rows] for tensor in inputs())
    model.losses(x0, labels, Randomness(t, eps, {}), {}).per_sample.mean().backward()
    return [p.grad for p in model.network.parameters()]


def awake(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.network.parameters():
            p.normal_(std=0.1, generator=generator)
    return model


def worker(rank, port, out):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = awake(module(digits(), dropout=0.0))
    model.denoiser.network = DistributedDataParallel(model.network)
    gradients = gradient(model, slice(4 * rank, 4 * rank + 4))
    if rank == 0:
        torch.save(gradients, out)
    dist.destroy_process_group()


def test_two_processes_equal_one_on_the_joint_batch(tmp_path):
    two(worker, tmp_path / "gradients.pt")
    expected = gradient(awake(module(digits(), dropout=0.0)), slice(0, 8))
    for ours, theirs in zip(expected, torch.load(tmp_path / "gradients.pt", weights_only=True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert max(float(g.abs().max()) for g in expected) > 1e-2
