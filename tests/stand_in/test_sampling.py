"""Every solver, rule and path on the stand-in device: nothing on the wrong device, and the host waits for nothing."""

import pytest
import torch

from dit.diffusion import Denoiser
from dit.solvers import CFG, ClassifierGuidance, Dopri5, Euler, ImageNoise, make_grid, sample
from tests.exact import PATHS
from tests.solvers.test_guidance import RULES, SAMPLERS, waves
from tests.stand_in.device import NAME, waits

NEVER_WAIT = {name: solver for name, solver in SAMPLERS.items() if not isinstance(solver, Dopri5)}

SOME = {name: PATHS[name] for name in ("flow", "zero_terminal_snr")}
RULES = RULES | {"classifier": ClassifierGuidance(CFG(2.0), lambda x, time: waves(x.flatten(1), time))}


def network(x, time, labels):
    """Twice the channels, of which the second half is a variance."""
    shift = labels.to(x)[:, None, None, None] - time.to(x)[:, None, None, None] / 1000
    return torch.cat([torch.tanh(x + shift), torch.tanh(x)], dim=1)


def there(path, solver, rule):
    """Waits of each of three steps."""
    denoiser = Denoiser(network, path, "velocity", null_label=3, learned_variance=True)
    source, by_step = ImageNoise(0, range(2), (2, 4, 4), NAME), []
    with waits() as found:

        def on_step(context, x):
            by_step.append(list(found))
            found.clear()

        grid = make_grid(path, 3)
        sample(
            denoiser, source.draw(), torch.tensor([0, 1], device=NAME), grid=grid, solver=solver, guidance=rule,
            step_noise=source.draw, on_step=on_step,
        )  # fmt: skip
    return by_step


@pytest.mark.slow
@pytest.mark.parametrize("solver", NEVER_WAIT.values(), ids=NEVER_WAIT)
def test_no_solver_waits_between_its_steps(solver):
    for path in SOME.values():
        assert there(path, solver, CFG(2.0))[1:] == [[], []]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_no_rule_waits_between_two_steps(rule):
    for path in SOME.values():
        assert there(path, Euler(), rule)[1:] == [[], []]
