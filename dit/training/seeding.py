"""Seeds of the generators that a network draws from by itself, one for each batch and rank."""

from __future__ import annotations

import hashlib

import torch


def seed_all(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of `device`. torch.manual_seed would write down a stack trace for every kind
    of device that is not there: milliseconds a step."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def step_seed(seed: int, rank: int, batch: int) -> int:
    """63-bit seed of one training batch on one rank."""
    digest = hashlib.blake2b(f"train:{seed}:{rank}:{batch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
