"""Processes for tests that need some: begun with what takes seconds to import, which is imported once for all."""

import multiprocessing
import socket

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lightning", "diffusers.models.autoencoders.autoencoder_kl", "tests.training.tiny"])


def two(worker, *arguments):
    """Runs worker(rank, a free port, ...) in two processes; what one raises is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(worker, args=(port, *arguments), nprocs=2, start_method="forkserver")
