"""The samplers of published projects, as docs/checkpoints.md writes them, against loops made from their formulas."""

import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from dit.diffusion import Denoiser, DiscreteVP, LinearFlow
from dit.solvers import ImageNoise, sample
from dit.solvers.sampler import STARTS
from tests.configs.test_configs import composed

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
SECTION = PAGE[PAGE.index("## Sampled as published") :]
BLOCK = re.search(r"```sh\n(.*?)```", SECTION, re.DOTALL).group(1).replace("\\\n", " ")
COMMANDS = {
    comment: [word for word in shlex.split(line)[2:] if not word.startswith(("checkpoint=", "vae="))]
    for comment, line in re.findall(r"# (.+?) \(FID .*\n(python sample.py .*)", BLOCK)
}
DATA_TIME = LinearFlow(time_scale=1.0, data_time=True)
NULL, LABELS = 10, torch.tensor([3, 7])


def network(channels=4, scale=1.0):
    """A function of x, time and label with random weights."""
    weights = torch.Generator().manual_seed(5)
    mix, shift, phase = (
        torch.randn(*size, generator=weights, dtype=torch.float64)
        for size in ((channels, 4), (11, channels), (channels,))
    )

    def call(x, time, labels):
        time = time.float().double()[:, None] / scale  # in single precision, as networks are told it
        seen = (shift[labels] + torch.cos(5 * time + phase))[:, :, None, None]
        return torch.tanh(torch.einsum("oc,bchw->bohw", mix, x) / 2 + seen) + 0.1 * seen

    return call


def eps_and_variance(net):
    """What a network that knows x0 as `net` does says of the noise in x, beside its variance."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)

    def call(x, time, labels):
        x0, variance = net(x, time, labels).chunk(2, dim=1)
        bar = alpha_bar[time.round().long()][:, None, None, None]
        return torch.cat([(x - bar.sqrt() * x0) / (1 - bar).sqrt(), variance], dim=1)

    return call


def ours(name, net, path, kind, change=(), count=2, **learned):
    overrides = [*COMMANDS[name], *change]
    sampler = instantiate(composed("checkpoint=x", *overrides, name="sample").sampler)
    source = noise(count)
    out = sample(
        Denoiser(net, path, kind, NULL, **learned),
        source.draw(),
        LABELS[:count],
        grid=sampler.grid(path, sampler.steps),
        solver=sampler.solver,
        guidance=sampler.guidance,
        step_noise=source.draw,
        start=STARTS[sampler.init],
    )
    return out.x0


def noise(count=2):
    return ImageNoise(0, range(count), (4, 3, 3), dtype=torch.float64)


def guided(net, x, time, scale, channels=4):
    """Both predictions at one time of the whole batch, mixed in the first channels; the others stay conditional."""
    time = torch.as_tensor(time, dtype=torch.float64).expand(len(x))
    cond, uncond = (net(x, time, labels) for labels in (LABELS[: len(x)], torch.full((len(x),), NULL)))
    mixed = uncond + scale * (cond - uncond)
    return torch.cat([mixed[:, :channels], cond[:, channels:]], dim=1)


def dit(net):
    """Kept entries define new betas; a step draws from the posterior of the new chain, its variance as learned."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    kept = [round(i * 999 / 249) for i in range(250)]
    bar = alpha_bar[kept]
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    beta = 1 - bar / before
    small = beta * (1 - before) / (1 - bar)
    source = noise()
    x = source.draw() * (1 - bar[-1]).sqrt()  # theirs begins at standard deviation 1
    for i in reversed(range(250)):
        eps, v = guided(net, x, kept[i], 1.5, 3).chunk(2, dim=1)
        x0 = (x - (1 - bar[i]).sqrt() * eps) / bar[i].sqrt()
        x = (before[i].sqrt() * beta[i] * x0 + (1 - beta[i]).sqrt() * (1 - before[i]) * x) / (1 - bar[i])
        if i:
            log = (v + 1) / 2 * beta[i].log() + (1 - v) / 2 * small[i].log()
            x = x + (log / 2).exp() * source.draw()
    return x


def sit_ode(net, rtol=1e-3):
    from torchdiffeq import odeint

    def velocity(t, x):
        return guided(net, x, t, 1.5, 3)

    times = torch.linspace(0, 1, 250, dtype=torch.float64)
    return odeint(velocity, noise(1).draw(), times, method="dopri5", rtol=rtol, atol=1e-6)[-1]


def sit_sde(net):
    """dx = (velocity + D score) dt + sqrt(2 D) dW with D = sigma, in a time that is 1 at data; the last step has no
    noise and length 0.04."""
    source, times = noise(), torch.linspace(0, 0.96, 250, dtype=torch.float64)
    x, dt = source.draw(), float(times[1] - times[0])
    for k, t in enumerate(times):
        velocity = guided(net, x, t, 1.5, 3)
        score = (t * velocity - x) / (1 - t)
        drift = velocity + (1 - t) * score
        x = x + drift * dt + (2 * (1 - t) * dt) ** 0.5 * source.draw() if k < 249 else x + drift * 0.04
    return x


def repa(net):
    """Time is 1 at noise, w = 2 t; drift is velocity - w/2 score."""
    source, times = noise(), [*torch.linspace(1, 0.04, 250, dtype=torch.float64), torch.tensor(0.0)]
    x = source.draw()
    for t, t_next in pairwise(times):
        velocity, dt = guided(net, x, t, 1.8 if t <= 0.7 else 1.0), t_next - t
        score = -((1 - t) * velocity + x) / t
        x = x + (velocity - t * score) * dt
        if t_next > 0:
            x = x + (2 * t * -dt).sqrt() * source.draw()
    return x


def lightningdit(net):
    times = torch.linspace(0, 1, 250, dtype=torch.float64)
    times = 0.3 * times / (1 + (0.3 - 1) * times)
    x = noise().draw()
    for t, t_next in pairwise(times):
        x = x + (t_next - t) * guided(net, x, t, 6.7 if t >= 0.125 else 1.0, 3)
    return x


def jit(net):
    def velocity(x, t):
        return (guided(net, x, t, 2.9 if t > 0.1 + 1e-9 else 1.0) - x) / max(1 - t, 0.05)

    x, times = noise().draw(), [k / 50 for k in range(51)]
    for t, t_next in pairwise(times):
        slope = velocity(x, t)
        if t_next < 1:
            slope = (slope + velocity(x + (t_next - t) * slope, t_next)) / 2
        x = x + (t_next - t) * slope
    return x


def negated(net):
    """Their velocity points to data, ours to noise."""
    return lambda x, time, labels: -net(x, time, labels)


PROTOCOLS = {
    "DiT-XL/2": (dit, eps_and_variance(network(8, 1000.0)), None, DiscreteVP.linear(), "eps", 1e-12),
    "SiT-XL/2, ODE": (sit_ode, network(), negated, DATA_TIME, "velocity", 2e-2),
    "SiT-XL/2, SDE": (sit_sde, network(), negated, DATA_TIME, "velocity", 1e-12),
    "REPA's SiT-XL/2": (repa, network(), None, LinearFlow(time_scale=1.0), "velocity", 1e-12),
    "LightningDiT-XL/1": (lightningdit, network(), negated, DATA_TIME, "velocity", 1e-9),
    "JiT-B/16": (jit, network(), None, DATA_TIME, "x0", 1e-12),
}


@cache
def published(name):
    reference, net, *_ = PROTOCOLS[name]
    return reference(net)


def difference(name, *change):
    _, net, turned, path, kind, _ = PROTOCOLS[name]
    count, learned = (1 if "ODE" in name else 2), {"learned_variance": True} if kind == "eps" else {}
    expected = published(name)
    got = ours(name, turned(net) if turned else net, path, kind, change, count, **learned)
    return float((got - expected).abs().max()), float(expected.square().mean().sqrt())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_samples_as_published(name):
    found, size = difference(name)
    assert 0.3 < size < 10
    assert found < PROTOCOLS[name][-1]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("SiT-XL/2, SDE", "solver.last_step=tweedie"),
        ("SiT-XL/2, SDE", "grid.last=null"),
        ("LightningDiT-XL/1", "guidance.inner.channels=null"),
        ("JiT-B/16", "guidance.max_gain=1000"),
        ("JiT-B/16", "guidance.inner.by=step"),
    ],
)
def test_each_option_matters(name, change):
    assert difference(name, change)[0] > 1e-3


def test_adaptive_steps_differ_by_their_own_error():
    """Told to be exact, both come to the same picture, but for our last Euler step."""
    net, name = network(), "SiT-XL/2, ODE"
    got = ours(name, negated(net), DATA_TIME, "velocity", ["solver.rtol=1e-7"], 1)
    torch.testing.assert_close(got, sit_ode(net, 1e-7), rtol=0, atol=1e-4)


def test_every_protocol_is_on_the_page():
    assert list(COMMANDS) == list(PROTOCOLS)
