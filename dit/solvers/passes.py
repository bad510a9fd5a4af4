"""Running the passes a rule asks for: one batch per network, in as many pieces as memory wants, counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
            for group in _together(labels, network, stage):
                rows = [rows for rows in map(labels.__getitem__, group) if rows is not None]
                x = stage.x if len(group) == 1 else torch.cat([stage.x] * len(group))  # [K B, *D]
                told, absent = _told(group, network, stage)
                answer = self._run(name, x, stage.t, torch.cat(rows) if rows else None, told, absent)
                found |= {p: _part(answer, stage.x, place) for place, p in enumerate(group)}
        return found

    def _run(
        self,
        name: str,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None,
        conditions: Mapping[str, Tensor],
        absent: Mapping[str, Tensor],
    ) -> Prediction:
        self.rows[name] += len(x)
        size, network = self._max_rows or len(x), self._networks[name]

        def piece(rows: slice) -> Prediction:
            told = {key: value[rows] for key, value in conditions.items()}
            flags = {"absent": {key: value[rows] for key, value in absent.items()}} if absent else {}
            return network(x[rows], t, None if labels is None else labels[rows], **told, **flags)

        if len(x) <= size:
            return piece(slice(None))
        pieces = [piece(slice(i, i + size)) for i in range(0, len(x), size)]
        variances = [piece.variance for piece in pieces if piece.variance is not None]
        return replace(
            pieces[0],
            native=torch.cat([piece.native for piece in pieces]),
            x=x,
            variance=torch.cat(variances) if variances else None,
        )


def names_for(network: Denoise, conditions: Iterable[str]) -> list[str]:
    """Those of `conditions` that a network takes, in the order of their names; a weak one may know fewer."""
    taken = getattr(network, "conditions", None)
    return sorted(name for name in conditions if taken is None or name in taken)


def _together(labels: Mapping[Pass, Tensor | None], network: Denoise, stage: Stage) -> list[list[Pass]]:
    """Passes that one call can compute: a network that has no label for "no class", or that cannot be told which rows
    lack a condition, is asked for those in calls of their own."""
    flagged = getattr(network, "conditions", None) is not None
    groups: dict[Any, list[Pass]] = {}
    apart = any(rows is None for rows in labels.values())
    for p in labels:
        dropped = (
            () if flagged else tuple(name for name in names_for(network, stage.conditions) if p.drops(name, network))
        )
        groups.setdefault((p if apart else None, dropped), []).append(p)
    return list(groups.values())


def _told(group: Sequence[Pass], network: Denoise, stage: Stage) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Conditions [K B, ...] of the rows of a group, and [K B] where they are dropped. What all drop is not given."""
    told, absent = {}, {}
    for name in names_for(network, stage.conditions):
        dropped = [p.drops(name, network) for p in group]
        if all(dropped):
            continue
        value = stage.conditions[name]
        told[name] = value if len(group) == 1 else torch.cat([value] * len(group))  # [K B, ...]
        if any(dropped):
            flags = (torch.full((len(value),), flag, device=value.device) for flag in dropped)
            absent[name] = torch.cat(list(flags))  # [K B]
    return told, absent


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
