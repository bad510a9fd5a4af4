"""On a GPU the solvers give what they give on the CPU."""

import pytest
import torch

from dit.diffusion import Denoiser
from dit.solvers import APG, CFG, TNR, Dopri5, ImageNoise, make_grid, sample
from tests.exact import PATHS
from tests.solvers.test_ode import SOLVERS
from tests.solvers.test_sde import STOCHASTIC

ALL = {**{name: solver for name, (solver, _) in SOLVERS.items()}, **STOCHASTIC, "dopri5": Dopri5(1e-6, 1e-6)}


def network(x, time, labels):
    return torch.tanh(x + labels.to(x)[:, None, None, None] - time.to(x)[:, None, None, None] / 1000)


@pytest.mark.gpu
@pytest.mark.parametrize("solver", ALL.values(), ids=ALL)
@pytest.mark.parametrize("rule", [TNR(CFG(2.0)), APG(2.0)], ids=["tnr", "apg"])
def test_cuda_agrees_with_the_cpu(solver, rule):
    path, ends = PATHS["linear"], []
    for device in ("cpu", "cuda"):
        noise = ImageNoise(0, range(3), (2, 4, 4), device, torch.float64)
        out = sample(
            Denoiser(network, path, "v", null_label=2), noise.draw(), torch.tensor([0, 1, 1], device=device),
            grid=make_grid(path, 6), solver=solver, guidance=rule, step_noise=noise.draw,
        )  # fmt: skip
        ends.append(out.x0.cpu())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-8)
