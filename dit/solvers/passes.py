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
        for name in dict.fromkeys(p.network for p in wanted):
            group = [p for p in wanted if p.network == name]
            network = self._networks[name]
            labels = [_labels(p, network, stage) for p in group]
            together = len(group) == 1 or all(label is not None for label in labels)
            for some in [range(len(group))] if together else [[k] for k in range(len(group))]:
                rows = [labels[k] for k in some]
                joint = rows[0] if len(rows) == 1 else torch.cat([label for label in rows if label is not None])
                answer = self._run(name, torch.cat([stage.x] * len(rows)) if len(rows) > 1 else stage.x, stage.t, joint)
                for place, k in enumerate(some):
                    found[group[k]] = answer if len(rows) == 1 else _part(answer, stage.x, place)
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
    """The prediction of one pass from a batch of several."""
    rows = slice(place * len(x), (place + 1) * len(x))
    variance = None if answer.variance is None else answer.variance[rows]
    return replace(answer, native=answer.native[rows], x=x, variance=variance)
