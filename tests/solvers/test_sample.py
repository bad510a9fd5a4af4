"""The loop: what it refuses, what it reports, and that an image depends on its seed and number alone."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from dit.diffusion import Denoiser, LinearFlow
from dit.solvers import (
    CFG,
    DDIM,
    RK4,
    TNR,
    Churn,
    DPMSolverPP,
    Euler,
    Heun,
    ImageNoise,
    Interval,
    Sampler,
    Solver,
    Stage,
    UniPC,
    make_grid,
    sample,
)
from dit.solvers.start import FromImage, FromMean, FromState
from tests.exact import PATHS, Gaussian, Mixture

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
        stage = Stage(context, context.x, context.t, None)
        torch.testing.assert_close(context.x, c.alpha * stage.signal(noise) + c.sigma * noise, rtol=0, atol=1e-12)
    assert torch.equal(Stage(seen[0][0], noise, seen[0][0].t, None).signal(noise), torch.zeros_like(noise))


def test_the_specification_is_plain_json():
    out = sample(DENOISER, torch.randn(1, 1, 4, 4), torch.tensor([1]), grid=make_grid(FLOW, 2), guidance=CFG(3.0))
    again = json.loads(json.dumps(out.spec, allow_nan=False))
    assert again == out.spec
    assert again["guidance"] == {"name": "CFG", "scale": 3.0, "negative": None, "channels": None}
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


def energy_distance(distances, sides):
    """Szekely and Rizzo's statistic between two equal halves, told apart by sides [.., 2 n] of 1 and -1, from all
    pairwise distances: twice the mean between the halves, less the means within."""
    return -((sides @ distances) * sides).sum(-1) / (len(distances) / 2) ** 2


def test_a_mixture_is_sampled_as_it_is():
    """A 2-D mixture through its exact denoiser: 800 samples against 800 true draws.

    More than the largest of 200 permutations would happen by chance once in 200 runs; the seeds are fixed. The same
    samples shifted by 0.2 are noticed.
    """
    denoiser, count = Mixture(FLOW, "velocity"), 800
    noise = ImageNoise(0, range(count), (2,), dtype=torch.float64).draw()
    ours = sample(denoiser, noise, grid=make_grid(FLOW, 60), solver=Heun()).x0
    true = denoiser.draw(count)
    sides = torch.ones(2 * count, dtype=torch.float64)
    sides[count:] = -1
    distances = torch.cdist(*[torch.cat([ours, true])] * 2)
    permuted = torch.stack([sides[torch.randperm(2 * count)] for _ in range(200)])
    by_chance = energy_distance(distances, permuted).max()
    assert energy_distance(distances, sides) < by_chance
    shifted = torch.cdist(*[torch.cat([ours + 0.2, true])] * 2)
    assert energy_distance(shifted, sides) > by_chance


def test_samples_of_the_exact_denoiser_have_the_right_law():
    """Mean and spread of 4,000 images within 5 standard errors of N(0.7, 0.5^2): a false alarm once in a million."""
    sampler = Sampler(steps=40, solver=Heun(), batch_size=4000)
    (batch,) = sampler.batches(Gaussian(FLOW), None, (1,), count=4000)
    error = 0.5 / 4000**0.5
    assert float(batch.x0.mean()) == pytest.approx(0.7, abs=5 * error)
    assert float(batch.x0.std()) == pytest.approx(0.5, abs=5 * error / 2**0.5 + 1e-3)


START = {"flow": PATHS["flow"], "linear": PATHS["linear"]}


@pytest.mark.parametrize("path", START.values(), ids=START)
def test_image_to_image_starts_from_the_noised_picture(path):
    """The lower the grid begins, the more of the picture is left; its noise is known to the rules."""
    picture, noise = torch.full((2, 3), 4.0, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    denoiser, ends, seen = Gaussian(path, "v", mean=0.0, std=2.0), [], []
    for first in (0.2, 0.5):
        grid = make_grid(path, 10)
        grid = grid[grid <= first + 1e-9]
        out = sample(
            denoiser,
            noise,
            grid=grid,
            start=FromImage(picture),
            guidance=TNR(CFG(1.0)),
            on_step=lambda c, x: seen.append(c),
        )
        ends.append(float(out.x0.mean()))
        assert out.spec["start"] == "image"
    assert 4 > ends[0] > ends[1] > 0
    c = path.coefficients(seen[0].t)
    torch.testing.assert_close(seen[0].x, c.alpha * picture + c.sigma * noise)
    torch.testing.assert_close(Stage(seen[0], seen[0].x, seen[0].t, None).signal(noise), picture)


def test_a_state_is_taken_as_it_is_and_its_noise_may_be_unknown():
    path, x = PATHS["linear"], torch.randn(2, 3, dtype=torch.float64)
    denoiser, grid = Gaussian(path, "v"), make_grid(path, 5)[2:]
    free = sample(denoiser, None, grid=grid, start=FromState(x)).x0
    assert torch.equal(free, sample(denoiser, torch.randn(2, 3), grid=grid, start=FromState(x)).x0)
    noise = ImageNoise(0, range(2), (3,), dtype=torch.float64)
    assert (
        sample(denoiser, None, grid=grid, start=FromState(x), solver=DDIM(1.0), step_noise=noise.draw)
        .x0.isfinite()
        .all()
    )
    calls = denoiser.calls
    for rule in (TNR(CFG(1.0)), Interval(TNR(CFG(1.0)), (-9, 9))):
        with pytest.raises(ValueError, match="must know the noise in the state it starts from; give noise as well"):
            sample(denoiser, None, grid=grid, start=FromState(x), guidance=rule)
    with pytest.raises(ValueError, match="inpainting needs the noise in the picture"):
        sample(denoiser, None, grid=grid, start=FromState(x), known=x, mask=torch.ones(2, 3))
    assert denoiser.calls == calls


def test_the_mean_start_is_one_evaluation_of_the_unguided_picture():
    """x_T = alpha x0(sigma e) + sigma e; on a Gaussian x0 there is known, and guidance does not enter."""
    path = PATHS["scaled_linear"]
    noise, seen = torch.randn(3, 2, dtype=torch.float64), []
    denoiser = Gaussian(path, "eps", means=(2.0, 3.0, 0.0), null_label=2)
    labels = torch.tensor([0, 1, 1])
    out = sample(
        denoiser, noise, labels, grid=make_grid(path, 4), guidance=CFG(3.0), start=FromMean(),
        on_step=lambda c, x: seen.append(c.x),
    )  # fmt: skip
    c = path.coefficients(torch.ones((), dtype=torch.float64))
    x0 = Gaussian(path, "x0", means=(2.0, 3.0, 0.0))(c.sigma * noise, torch.ones((), dtype=torch.float64), labels).x0
    torch.testing.assert_close(seen[0], c.alpha * x0 + c.sigma * noise)
    assert (out.nfe.evaluations, out.nfe.rows, out.spec["start"]) == (5, 9, "mean")
    # Where alpha is 0 there is nothing to correct and nothing is spent.
    flow = sample(Gaussian(FLOW), noise, grid=make_grid(FLOW, 4), start=FromMean())
    assert flow.nfe.evaluations == 4
    assert torch.equal(flow.x0, sample(Gaussian(FLOW), noise, grid=make_grid(FLOW, 4)).x0)


@pytest.mark.parametrize("std", [1.0, 3.0])
def test_the_mean_start_leads_to_its_fixed_point(std):
    """Repeated, the signal becomes m + (s^2/U) e, and the mean is exact; its first round is FromMean."""
    path, noise = PATHS["vp_scaled"], torch.randn(4, 2, dtype=torch.float64)
    grid, seen = make_grid(path, 1), []
    c = path.coefficients(grid[0])
    denoiser, y = Gaussian(path, "eps", mean=0.7, std=std), torch.zeros_like(noise)
    sample(denoiser, noise, grid=grid, start=FromMean(), on_step=lambda context, x: seen.append(context.x))
    for k in range(200):
        # One Euler step to clean data is the predicted picture.
        y = sample(denoiser, noise, grid=grid, start=FromState(c.alpha * y + c.sigma * noise)).x0
        if k == 0:
            torch.testing.assert_close(seen[0], c.alpha * y + c.sigma * noise)
    u = float(c.sigma / c.alpha)
    torch.testing.assert_close(y, 0.7 + std**2 / u * noise, rtol=0, atol=1e-6)


def sliced_wasserstein(a, b):
    """W2 of the projections on 24 directions, root mean square; [N, 2] each."""
    angles = torch.arange(24, dtype=torch.float64) * torch.pi / 24
    ours, theirs = ((v @ torch.stack([angles.cos(), angles.sin()])).sort(0).values for v in (a, b))
    return float((ours - theirs).square().mean().sqrt())


def test_a_mean_start_mends_what_a_schedule_loses():
    """The mixture on latent diffusion's schedule, which ends at sigma/alpha 14.46, converged: the law of each class is
    off by 0.015, all of it from the start, and by less than 0.002 after one more evaluation. The truth is a flow,
    which starts from pure noise."""
    count = 2048
    labels = torch.arange(3).repeat_interleave(count)
    sobol = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(count, dtype=torch.float64)
    noise = torch.special.ndtri(sobol.clamp(1e-6, 1 - 1e-6)).repeat(3, 1)

    def classes(path, **start):
        grid = make_grid(path, 30, "karras", u_max=1000, u_min=0.01)
        x0 = sample(Mixture(path, "v"), noise, labels, grid=grid, solver=RK4(), **start).x0
        return x0.reshape(3, count, 2)

    truth, plain, mended = classes(FLOW), classes(PATHS["vp_scaled"]), classes(PATHS["vp_scaled"], start=FromMean())
    distances = [[sliced_wasserstein(*pair) for pair in zip(truth, other, strict=True)] for other in (plain, mended)]
    assert sum(distances[0]) / 3 == pytest.approx(0.015, abs=0.003)
    assert max(distances[1]) < 0.002
    means = Mixture(FLOW).modes()[0].reshape(3, 2, 2).mean(1)
    assert float((mended.mean(1) - means).norm(dim=1).max()) < 0.001


@pytest.mark.parametrize(
    "solver", [Euler(), Heun(), DPMSolverPP(2), UniPC(2), DDIM(1.0)], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("path", START.values(), ids=START)
def test_inpainting_keeps_what_is_known_and_noises_it_like_the_rest(path, solver):
    known = torch.full((2, 1, 4, 4), 3.0, dtype=torch.float64)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    noise, seen = ImageNoise(0, range(2), (1, 4, 4), dtype=torch.float64), []
    out = sample(
        Gaussian(path, "v"), noise.draw(), grid=make_grid(path, 6), solver=solver, step_noise=noise.draw, known=known,
        mask=mask, on_step=lambda c, x: seen.append((c, x)),
    )  # fmt: skip
    assert torch.equal(out.x0[..., :2], known[..., :2])
    assert float(out.x0[..., 2:].mean()) == pytest.approx(0.7, abs=0.5)
    assert out.spec["inpainting"]
    for (_, x), (after, _) in pairwise(seen):
        c = path.coefficients(after.t)
        torch.testing.assert_close(x[..., :2], (c.alpha * known + c.sigma * after.true_noise)[..., :2])


def test_what_does_not_fit_together_is_refused():
    noise, grid, denoiser = torch.zeros(2, 3), make_grid(FLOW, 2), Gaussian(FLOW)
    for arguments, text in [
        ({"noise": None}, "noise is needed"),
        (
            {"start": "zero"},
            r"start must be FromNoise\(\), .* or FromState\(...\), got 'zero'",
        ),
        ({"start": FromImage(torch.zeros(2, 4))}, r"image must have the shape of noise, \(2, 3\), got \(2, 4\)"),
        ({"start": FromState(torch.zeros(1, 3))}, r"state must have the shape of noise, \(2, 3\), got \(1, 3\)"),
        ({"known": noise}, "inpainting needs both known and mask"),
        ({"known": noise, "mask": torch.zeros(5, 7, 3)}, r"mask broadcast to it, got \(2, 3\) and \(5, 7, 3\)"),
        ({"known": noise, "mask": torch.zeros(4)}, r"mask broadcast to it, got \(2, 3\) and \(4,\)"),
        ({"labels": torch.zeros(2)}, "labels must be a tensor of whole numbers, one per image"),
        ({"labels": [0, 1]}, "labels must be a tensor of whole numbers, one per image"),
        ({"noise": torch.zeros(0, 3)}, "noise must hold at least one image, got none"),
        ({"max_rows": "abc"}, "max_rows must be a whole number of at least 1 or null, got 'abc'"),
        ({"max_rows": 0}, "max_rows must be a whole number of at least 1 or null, got 0"),
    ]:
        with pytest.raises(ValueError, match=text):
            sample(denoiser, **{"noise": noise, "grid": grid, **arguments})
    with pytest.raises(ValueError, match="init must be noise or mean, got 'x'"):
        Sampler(init="x")
    assert denoiser.calls == 0


@pytest.mark.parametrize("max_rows", [1, 3, 4, 8, 100])
def test_rows_are_run_in_pieces_when_asked(max_rows):
    sizes, exact = [], Gaussian(FLOW, means=(-1.0, 1.0, 0.0), null_label=2)

    def denoiser(x, t, labels=None):
        sizes.append(len(x))
        return exact(x, t, labels)

    denoiser.path, denoiser.null_label = FLOW, 2
    arguments = {"labels": torch.tensor([0, 1, 1, 0]), "grid": make_grid(FLOW, 3), "guidance": CFG(2.0)}
    noise = torch.randn(4, 3, dtype=torch.float64)
    whole = sample(denoiser, noise, **arguments)
    sizes.clear()
    pieces = sample(denoiser, noise, max_rows=max_rows, **arguments)
    assert max(sizes) == min(max_rows, 8)
    assert torch.equal(pieces.x0, whole.x0)
    assert (pieces.nfe, sum(sizes)) == (whole.nfe, 3 * 8)


def test_inpainting_begins_with_what_is_known():
    """Also from the middle of a path, where x holds signal before the first call."""
    path, seen = PATHS["linear"], []
    known, noise = torch.full((1, 2), 3.0, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    grid = make_grid(path, 4)[2:]
    sample(
        Gaussian(path, "v"), noise, grid=grid, known=known, mask=torch.tensor([[1, 0]]),
        on_step=lambda c, x: seen.append(c.x),
    )  # fmt: skip
    c = path.coefficients(grid[0])
    torch.testing.assert_close(seen[0], c.sigma * noise + c.alpha * known * torch.tensor([[1, 0]]))


def test_a_rule_and_a_solver_of_somebody_else_are_described_by_name():
    class Mine(CFG):
        pass

    class Bare(Solver):
        order, evaluations = 1, 1

        def step(self, predict, path, x, t, t_next, state, noise):
            return Euler().step(predict, path, x, t, t_next, state, noise)

    out = sample(Gaussian(FLOW), torch.zeros(1, 2), grid=make_grid(FLOW, 2), solver=Bare(), guidance=Mine(1.0))
    assert (out.spec["solver"], out.spec["guidance"]["name"]) == ({"name": "Bare"}, "Mine")


def test_half_precision_is_raised():
    out = sample(Gaussian(FLOW), torch.randn(1, 2, dtype=torch.bfloat16), grid=make_grid(FLOW, 2))
    assert out.x0.dtype == torch.float32


@pytest.mark.parametrize("solver", [Heun(), UniPC(3), DDIM(1.0), Churn(10.0)], ids=lambda s: type(s).__name__)
def test_the_same_seed_gives_the_same_bits(solver):
    runs = []
    for _ in range(2):
        sampler = Sampler(steps=5, solver=solver, seed=11, guidance=TNR(CFG(2.0)), batch_size=3)
        runs.append(torch.cat([b.x0 for b in sampler.batches(DENOISER, [0, 1, 2, 3], (1, 4, 4))]))
    assert torch.equal(*runs)
