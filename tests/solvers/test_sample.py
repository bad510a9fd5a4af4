"""The loop: what it refuses, what it reports, and that an image depends on its seed and number alone."""

import json
import subprocess
import sys

import pytest
import torch

from dit.diffusion import Denoiser, LinearFlow
from dit.solvers import CFG, Heun, ImageNoise, Sampler, make_grid, sample
from tests.exact import Gaussian, Mixture

FLOW = LinearFlow()


def network(x, time, labels):
    """A nonlinear network that mixes every pixel of an image, but not images."""
    return torch.tanh(x.flatten(1).cumsum(1).view_as(x) * 0.3) + (labels * 0.1)[:, None, None, None]


DENOISER = Denoiser(network, FLOW, "velocity", null_label=10)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 100])
def test_an_image_is_the_same_for_every_batch_size(batch_size):
    labels = [0, 1, 2, 3, 4, 5, 6]
    reference = Sampler(steps=4, seed=3, batch_size=7, guidance=CFG(2.0))
    whole = torch.cat([b.x0 for b in reference.batches(DENOISER, labels, (1, 4, 4))])
    parts = Sampler(steps=4, seed=3, batch_size=batch_size, guidance=CFG(2.0)).batches(DENOISER, labels, (1, 4, 4))
    torch.testing.assert_close(torch.cat([b.x0 for b in parts]), whole, rtol=0, atol=1e-6)


def test_noise_is_a_function_of_seed_and_image():
    first = ImageNoise(0, [0, 1, 2], (2, 2)).draw()
    assert torch.equal(ImageNoise(0, [2], (2, 2)).draw()[0], first[2])
    assert not torch.equal(ImageNoise(1, [0], (2, 2)).draw()[0], first[0])
    assert not torch.equal(ImageNoise(1, [0], (2, 2)).draw()[0], first[1])
    source = ImageNoise(0, [0], (2, 2))
    assert not torch.equal(source.draw(), source.draw())
    assert abs(float(ImageNoise(0, range(2000), (8,)).draw().std()) - 1) < 0.02


def test_on_step_sees_every_step_and_its_context():
    seen = []
    noise = torch.randn(2, 3, dtype=torch.float64)
    denoiser = Gaussian(FLOW)
    out = sample(denoiser, noise, grid=make_grid(FLOW, 4), solver=Heun(), on_step=lambda c, x: seen.append((c, x)))
    assert [c.index for c, _ in seen] == [0, 1, 2, 3]
    assert [float(c.t) for c, _ in seen] == [1.0, 0.75, 0.5, 0.25]
    assert seen[0][0].log_snr == -float("inf")
    assert torch.equal(seen[-1][1], out.x0)
    # An ODE keeps its noise, and x = alpha y + sigma e holds at every step.
    for context, _ in seen:
        assert context.true_noise is noise
        c = FLOW.coefficients(context.t)
        torch.testing.assert_close(
            context.x, c.alpha * context.signal(context.x, context.t) + c.sigma * noise, rtol=0, atol=1e-12
        )
    assert torch.equal(seen[0][0].signal(noise, seen[0][0].t), torch.zeros_like(noise))


def test_the_specification_is_plain_json():
    out = sample(DENOISER, torch.randn(1, 1, 4, 4), torch.tensor([1]), grid=make_grid(FLOW, 2), guidance=CFG(3.0))
    again = json.loads(json.dumps(out.spec, allow_nan=False))
    assert again == out.spec
    assert again["guidance"] == {"name": "CFG", "scale": 3.0, "batched": True}
    assert again["solver"] == {"name": "Euler"}
    assert (again["kind"], again["steps"], again["grid"]) == ("velocity", 2, [1.0, 0.5, 0.0])


def test_mistakes_are_refused_before_the_first_call():
    def never(x, time, labels):
        raise AssertionError("the network was called")

    grid, noise = make_grid(FLOW, 2), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\), one per image, got \(3,\)"):
        sample(Denoiser(never, FLOW, "velocity"), noise, torch.zeros(3).long(), grid=grid)
    for bad in (-1, 11):
        with pytest.raises(ValueError, match=r"labels must be in 0 \.\.\. 10, got"):
            sample(Denoiser(never, FLOW, "velocity", 10), noise, torch.tensor([0, bad]), grid=grid)
    for kind in ("eps", "score"):
        with pytest.raises(ValueError, match=f"predicts {kind} cannot start at t=1"):
            sample(Denoiser(never, FLOW, kind), noise, grid=grid)
    for name, bad in {"batch_size": 0, "steps": 2.5, "seed": "x"}.items():
        with pytest.raises(ValueError, match=rf"{name} must be a whole number of at least ., got {bad!r}"):
            Sampler(**{name: bad})


def test_a_state_that_is_not_finite_stops_with_step_and_level():
    def explode(x, time, labels):
        return x * float("inf") if float(time[0]) < 600 else x

    with pytest.raises(FloatingPointError, match=r"step 3 of 4, from log-SNR 0\.00 to 2\.20"):
        sample(Denoiser(explode, FLOW, "velocity"), torch.ones(1, 2), grid=make_grid(FLOW, 4))


def test_somebody_elses_callable_is_a_denoiser_with_torch_alone():
    """A bare function with a path, in a process that has none of the framework loaded."""
    code = """
import sys, torch
from dit.diffusion import LinearFlow, Prediction
from dit.solvers import CFG, Heun, make_grid, sample
path = LinearFlow()
def mine(x, t, labels):
    return Prediction(x - 1, "velocity", x, path.coefficients(t))
mine.path = path
out = sample(mine, torch.randn(3, 2), grid=make_grid(path, 5), solver=Heun(), guidance=CFG(1.0))
assert out.x0.isfinite().all() and out.nfe.evaluations == 9
heavy = {"lightning", "hydra", "omegaconf", "wandb", "torchvision", "einops", "dit.model"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def energy_distance(distances, first):
    """Szekely and Rizzo's statistic between the samples in `first` and the rest, from all pairwise distances."""
    rest = ~first
    between, within = distances[first][:, rest], (distances[first][:, first], distances[rest][:, rest])
    return float(2 * between.mean() - within[0].mean() - within[1].mean())


def test_a_mixture_is_sampled_as_it_is():
    """A 2-D mixture through its exact denoiser: 800 samples against 800 true draws.

    More than the largest of 200 permutations would happen by chance once in 200 runs; the seeds are fixed. The same
    samples shifted by 0.2 are noticed.
    """
    denoiser, count = Mixture(FLOW, "velocity"), 800
    noise = ImageNoise(0, range(count), (2,), dtype=torch.float64).draw()
    ours = sample(denoiser, noise, grid=make_grid(FLOW, 60), solver=Heun()).x0
    true = denoiser.draw(count)
    first = torch.arange(2 * count) < count
    distances = torch.cdist(*[torch.cat([ours, true])] * 2)
    by_chance = max(energy_distance(distances, first[torch.randperm(2 * count)]) for _ in range(200))
    assert energy_distance(distances, first) < by_chance
    shifted = torch.cdist(*[torch.cat([ours + 0.2, true])] * 2)
    assert energy_distance(shifted, first) > by_chance


def test_samples_of_the_exact_denoiser_have_the_right_law():
    """Mean and spread of 4,000 images within 5 standard errors of N(0.7, 0.5^2): a false alarm once in a million."""
    sampler = Sampler(steps=40, solver=Heun(), batch_size=4000)
    (batch,) = sampler.batches(Gaussian(FLOW), None, (1,), count=4000)
    error = 0.5 / 4000**0.5
    assert float(batch.x0.mean()) == pytest.approx(0.7, abs=5 * error)
    assert float(batch.x0.std()) == pytest.approx(0.5, abs=5 * error / 2**0.5 + 1e-3)
