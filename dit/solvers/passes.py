"""Running the passes a rule asks for: one batch per network, in as many pieces as memory wants, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dit.diffusion.prediction import Prediction
from dit.solvers.guidance.rule import Denoise, Pass, Stage


class Passes:
    """Evaluates passes at a stage. All passes of one network run as one batch, pass by pass, or as several of at most
    `max_rows` rows. rows: counted by network."""

    def __init__(self, networks: Mapping[str, Denoise], max_rows: int | None = None):
        self._networks, self._max_rows = networks, max_rows
        self.rows = dict.fromkeys(networks, 0)

    def __call__(self, wanted: Sequence[Pass], stage: Stage) -> dict[Pass, Prediction]:
        found: dict[Pass, Prediction] = {}
        for name, network in self._networks.items():
            labels = {p: _labels(p, network, stage) for p in wanted if p.network == name}
            # A network that has no label for "no class" is asked for it in a call of its own.
            apart = any(rows is None for rows in labels.values())
            groups = [[p] for p in labels] if apart else [list(labels)]
            for group in filter(None, groups):
                rows = [rows for rows in map(labels.__getitem__, group) if rows is not None]
                x = stage.x if len(group) == 1 else torch.cat([stage.x] * len(group))  # [K B, *D]
                answer = self._run(name, x, stage.t, torch.cat(rows) if rows else None)
                found |= {p: _part(answer, stage.x, place) for place, p in enumerate(group)}
        return found

    def _run(self, name: str, x: Tensor, t: Tensor, labels: Tensor | None) -> Prediction:
        self.rows[name] += len(x)
        size, network = self._max_rows or len(x), self._networks[name]
        if len(x) <= size:
            return network(x, t, labels)
        starts = range(0, len(x), size)
        pieces = [network(x[i : i + size], t, None if labels is None else labels[i : i + size]) for i in starts]
        variances = [piece.variance for piece in pieces if piece.variance is not None]
        return replace(
            pieces[0],
            native=torch.cat([piece.native for piece in pieces]),
            x=x,
            variance=torch.cat(variances) if variances else None,
        )


def _labels(which: Pass, network: Denoise, stage: Stage) -> Tensor | None:
    """The label of every image [B] in this pass; None where the network has to know by itself what no class means."""
    label = which.label
    if label == "own":
        return stage.labels
    if label is None:
        label = getattr(network, "null_label", None)
    return None if label is None else torch.full((len(stage.x),), label, device=stage.x.device)


def _part(answer: Prediction, x: Tensor, place: int) -> Prediction:
    """The prediction of one pass, at `place` in a batch of several."""
    if len(answer.native) == len(x):
        return answer
    rows = slice(place * len(x), (place + 1) * len(x))
    variance = None if answer.variance is None else answer.variance[rows]
    return replace(answer, native=answer.native[rows], x=x, variance=variance)
