"""How near averages made up of snapshots come to averages that were tracked: `python -m benchmarks.posthoc_ema`.

A small DiT learns digits for 400 steps while nine lengths are tracked; snapshots of two of them make up the others.
Errors are norms of differences of all weights, as shares of the norm of the weights.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from data import Digits
from dit.checkpoint.power import fit, gamma
from dit.diffusion import Denoiser, LinearFlow
from dit.model import DiT
from dit.training import PowerEma

TRACKED, OTHERS = [0.05, 0.1], [0.01, 0.02, 0.03, 0.07, 0.15, 0.2, 0.25]
STEPS, BATCH = 400, 16


def main() -> None:
    torch.set_num_threads(1)
    table = Table("rate", "snapshots", "length", "residual", "error", "float16", "sum not one", "nearest tracked")
    for rate in ("constant", "cosine"):
        history = train(rate)
        final = history[-1]
        for count in (40, 20, 10, 5):
            steps = [STEPS // count * (i + 1) for i in range(count)]
            lengths = [length for length in TRACKED for _ in steps]
            snapshots = torch.stack([history[step - 1][length] for length in TRACKED for step in steps])
            for length in OTHERS:
                found = fit(lengths, steps * len(TRACKED), length, STEPS)
                coefficients = torch.tensor(found.coefficients, dtype=torch.float64)
                free = unconstrained(lengths, steps * len(TRACKED), length)

                def error(average: Tensor, wanted: Tensor = final[length]) -> str:
                    return f"{float((average - wanted).norm() / wanted.norm()):.1e}"

                table.add_row(
                    rate,
                    str(count),
                    str(length),
                    f"{found.residual:.1e}",
                    error(coefficients @ snapshots),
                    error(coefficients @ snapshots.half().double()),
                    error(free @ snapshots),
                    min((error(final[other]) for other in TRACKED), key=float),
                )
    Console(width=110).print(table)


def train(rate: str) -> list[dict[float, Tensor]]:
    """Every average, as one float64 vector, after every step."""
    data = Digits(image_size=8, channels=1, num_classes=10, batch_size=BATCH, validation_images=32)
    data.setup()
    torch.manual_seed(0)
    network = DiT(8, 1, 10, 4, 32, 2, 2)
    denoiser = Denoiser(network, LinearFlow(), "velocity", network.null_label)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    shares = {
        "constant": lambda step: 1.0,
        "cosine": lambda step: (1 + torch.tensor(torch.pi * step / STEPS).cos()) / 2,
    }
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(shares[rate](step)) * min(1, step / 10))
    ema, history = PowerEma(TRACKED + OTHERS), []
    ema.attach(network)
    x0, labels = data.train.tensors(1400)
    x0 = x0.float() / 127.5 - 1
    for _ in range(STEPS):
        rows = torch.randint(len(x0), (BATCH,))
        eps, t = torch.randn_like(x0[rows]), torch.rand(BATCH)
        x = denoiser.path.interpolate(x0[rows], eps, t)
        loss = nn.functional.mse_loss(denoiser(x, t, labels[rows]).velocity, eps - x0[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update(network)
        averages = [torch.cat([t.flatten() for t in average.values()]).double() for average in ema.averages.values()]
        history.append(dict(zip(TRACKED + OTHERS, averages, strict=True)))
    return history


def unconstrained(lengths: list[float], steps: list[int], length: float) -> Tensor:
    """Coefficients of the plain least-squares fit, on a grid."""
    s = (torch.arange(20 * STEPS, dtype=torch.float64) + 0.5) / 20

    def profile(length: float, step: int) -> Tensor:
        g = gamma(length)
        return torch.where(s <= step, (g + 1) * (s / step) ** g / step, 0.0)

    columns = torch.stack([profile(*pair) for pair in zip(lengths, steps, strict=True)], dim=1)
    return torch.linalg.lstsq(columns, profile(length, STEPS)[:, None]).solution[:, 0]


if __name__ == "__main__":
    main()
