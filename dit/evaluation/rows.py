"""Scores of a sampler, each with the protocol it was measured under."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from dit.evaluation.classifier import Classifier
from dit.evaluation.frechet import frechet_distance
from dit.solvers import Denoise, Grid, Sampler


@dataclass(frozen=True)
class Score:
    """One row of the table. A row of real pictures has no sampler: there the columns of sampling are None. So is the
    accuracy where guidance does not follow the labels."""

    name: str
    accuracy: float | None
    frechet: float
    images: int
    solver: str | None = None
    evaluations: int | None = None
    rows: float | None = None
    seconds: float | None = None
    spec: dict[str, Any] | None = None


def score_images(name: str, images: Tensor, labels: Tensor, reference: Tensor, classifier: Classifier) -> Score:
    """Class accuracy of uint8 images [N, C, H, W] with labels [N], and their Frechet distance to `reference`."""
    distance = frechet_distance(classifier.network, images, reference)
    return Score(name, classifier.accuracy(images, labels), distance, len(images))


def score_sampler(
    denoiser: Denoise,
    sampler: Sampler,
    labels: Sequence[int],
    shape: tuple[int, int, int],
    decode: Callable[[Tensor], Tensor],
    reference: Tensor,
    classifier: Classifier,
    device: torch.device | str = "cpu",
) -> Score:
    """Sample one image per label and score them; `seconds` is the sampling alone."""
    begun, images, last = time.monotonic(), [], None
    for last in sampler.batches(denoiser, labels, shape, device=device):
        images.append(decode(last.x0).cpu())
    seconds = time.monotonic() - begun
    assert last is not None
    name = _rule(last.spec["guidance"])
    plain = score_images(name, torch.cat(images), torch.tensor(labels), reference, classifier)
    accuracy = plain.accuracy if sampler.guidance.uses_labels else None
    return Score(
        name, accuracy, plain.frechet, plain.images, f"{last.spec['solver']['name']} {last.spec['steps']}",
        last.nfe.evaluations, last.nfe.rows, seconds, last.spec,
    )  # fmt: skip


def _rule(spec: dict[str, Any]) -> str:
    """A nest of rules as TNR(CFG 1.5)."""
    scale = next((spec[name] for name in ("scale", "lam", "scales") if name in spec), None)
    if isinstance(scale, dict):
        scale = f"{scale['name']} {scale['low']:g}-{scale['high']:g}"
    own = "" if scale is None else f" {scale:g}" if isinstance(scale, int | float) else f" {scale}"
    more = "".join(
        f", {name} {spec[name]}" for name in ("classes", "negative", "channels") if spec.get(name) is not None
    )
    inner = f"({_rule(spec['inner'])})" if "inner" in spec else ""
    return f"{spec['name']}{own}{more}{inner}"


def table(scores: Sequence[Score]) -> Table:
    """The scores as a small table for the terminal."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "guidance",
        "images",
        "class accuracy",
        "Frechet distance",
        "solver, steps",
        "NFE",
        "rows/image",
        "seconds",
    ):
        result.add_column(heading, justify="left" if heading == "guidance" else "right")
    for s in scores:
        sampled = (s.solver, s.evaluations, f"{s.rows:g}", f"{s.seconds:.1f}") if s.rows and s.seconds else ("-",) * 4
        accuracy = "-" if s.accuracy is None else f"{s.accuracy:.3f}"
        result.add_row(s.name, f"{s.images:,}", accuracy, f"{s.frechet:.2f}", *map(str, sampled))
    return result


def protocol_line(classifier: Classifier, images: int, reference: int, seed: int, weights: str, grid: Grid) -> str:
    """What must stand beside the numbers for anybody to compare them."""
    return (
        f"protocol: {images:,} images, balanced labels, all channels guided unless named, {type(grid).__name__}, "
        f"seed {seed}, weights {weights}; reference {reference:,} held-out pictures; "
        f"features of a small conv net {classifier.digest} "
        f"trained on the real training split (held-out accuracy {classifier.held_out_accuracy:.3f})"
    )
