"""Classifier-free guidance: off is absent, all channels move, and the kind of prediction does not matter."""

import pytest
import torch

from dit.diffusion import KINDS, Denoiser, LinearFlow
from dit.solvers import CFG, Euler, Heun, make_grid, sample
from tests.exact import PATHS, Gaussian

MEANS = (-1.0, 0.0, 1.0, 0.2)  # three classes, then the null label
LABELS = torch.tensor([0, 1, 2, 2])
NOISE = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def run(guidance, path=PATHS["linear"], kind="v", solver=None, noise=NOISE, labels=LABELS):
    denoiser = Gaussian(path, kind, means=MEANS, null_label=3)
    return sample(
        denoiser, noise, labels, grid=make_grid(path, 6), solver=solver or Heun(), guidance=guidance
    ), denoiser


def test_scale_one_is_no_guidance_bit_for_bit_and_costs_one_row():
    guided, denoiser = run(CFG(1.0))
    plain, _ = run(None)
    assert torch.equal(guided.x0, plain.x0)
    assert (guided.nfe.evaluations, guided.nfe.rows) == (11, 11)
    assert denoiser.rows == 4 * 11


def test_scale_zero_is_unconditional_and_costs_one_row():
    guided, _ = run(CFG(0.0))
    plain, _ = run(None, labels=None)
    assert torch.equal(guided.x0, plain.x0)
    assert guided.nfe.rows == 11


def test_other_scales_cost_two_rows_in_one_call():
    guided, denoiser = run(CFG(2.5))
    assert (guided.nfe.evaluations, guided.nfe.rows, denoiser.calls) == (11, 22, 11)
    two, denoiser = run(CFG(2.5, batched=False))
    assert (two.nfe.evaluations, two.nfe.rows, denoiser.calls) == (11, 22, 22)
    assert torch.equal(two.x0, guided.x0)


@pytest.mark.parametrize("path", [PATHS["linear"], PATHS["flow"]], ids=["linear", "flow"])
def test_guidance_is_the_same_in_every_kind(path):
    """Weights that sum to one commute with the affine conversions (all kinds that can start at t = 1)."""
    reference, _ = run(CFG(3.7), path, "v", Euler())
    for kind in KINDS:
        if path is PATHS["flow"] and kind in ("eps", "score"):
            continue
        other, _ = run(CFG(3.7), path, kind, Euler())
        torch.testing.assert_close(other.x0, reference.x0, rtol=0, atol=1e-9)


def test_the_formula_counts_from_the_unconditional_prediction():
    """uncond + w (cond - uncond): in one exact Euler step from pure noise x0 is the guided mean itself."""
    denoiser = Gaussian(LinearFlow(), means=MEANS, null_label=3)
    out = sample(denoiser, NOISE, LABELS, grid=make_grid(denoiser.path, 1), guidance=CFG(1.5))
    expected = [0.2 + 1.5 * (MEANS[label] - 0.2) for label in LABELS]
    assert out.x0[:, 0, 0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("channel", range(5))
def test_every_channel_is_guided(channel):
    """The published DiT guides three channels only; ours moves channel k exactly when the network's channel k does."""
    path = LinearFlow()

    def network(x, time, labels):
        out = x.clone()
        out[:, channel] += (labels != 3).double()[:, None, None]
        return out

    noise = torch.randn(2, 5, 2, 2, dtype=torch.float64)
    images = [
        sample(
            Denoiser(network, path, "velocity", null_label=3), noise, torch.tensor([0, 1]), grid=make_grid(path, 3),
            guidance=CFG(scale),
        ).x0
        for scale in (1.0, 2.0)
    ]  # fmt: skip
    moved = (images[0] - images[1]).abs().amax(dim=(0, 2, 3)) > 1e-6
    assert moved.tolist() == [k == channel for k in range(5)]


def test_guidance_without_a_trained_null_class_is_refused():
    with pytest.raises(ValueError, match=r"guidance\.scale=2 needs .* class_dropout 0, so only guidance\.scale=1"):
        sample(Gaussian(LinearFlow()), NOISE, LABELS, grid=make_grid(LinearFlow(), 2), guidance=CFG(2.0))
    with pytest.raises(ValueError, match=r"guidance\.scale=2 needs class labels"):
        run(CFG(2.0), labels=None)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"guidance\.scale must be a finite number"):
            CFG(bad)
