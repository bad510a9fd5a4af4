"""Time of a training step (forward, backward, AdamW) per way to compute it, as a ratio to eager SDPA.

`python -m benchmarks.train_step [--device cuda] [--size dit_b]`; rounds alternate between the ways, so that a machine
whose speed drifts does not favour one of them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from dit.model import DiT

SIZES = {"digits": (8, 1, 64, 96, 4, 4), "dit_s": (32, 4, 8, 384, 12, 6), "dit_b": (32, 4, 64, 768, 12, 12)}
WAYS = {
    "eager, sdpa": {},
    "eager, reference attention": {"attention": "reference"},
    "activation checkpointing": {"activation_checkpointing": 1},
    "compiled": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, default="digits")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    image, channels, batch, hidden, depth, heads = SIZES[options.size]

    steps = {}
    for name, changes in WAYS.items():
        torch.manual_seed(0)
        network = DiT(image, channels, 10, 2, hidden, depth, heads, **changes).to(options.device)
        if name == "compiled":
            network.compile_blocks("inductor")
        steps[name] = one_step(network, torch.randn(batch, channels, image, image, device=options.device))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(options.rounds + 3):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            if options.device != "cpu":
                torch.cuda.synchronize()
            if round_number >= 3:  # the first rounds warm up and compile
                seconds[name].append(time.perf_counter() - begun)

    table = Table("way", "images/s", "time / eager sdpa", box=None)
    base = seconds["eager, sdpa"]
    for name, times in seconds.items():
        ratio = statistics.median(t / b for t, b in zip(times, base, strict=True))
        table.add_row(name, f"{batch / statistics.median(times):,.0f}", f"{ratio:.2f}")
    Console().print(table)


def one_step(network: DiT, x: torch.Tensor):
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    time_, labels = torch.rand(len(x), device=x.device) * 999, torch.arange(len(x), device=x.device) % 10

    def step() -> None:
        optimizer.zero_grad()
        (network(x, time_, labels) - x).square().mean().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
