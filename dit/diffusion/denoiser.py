"""Any network, a path and the kind it predicts, as one callable: denoiser(x, t, labels) -> Prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dit.diffusion.path import GaussianPath
from dit.diffusion.prediction import Kind, Prediction, check_kind

Network = Callable[..., Any]  # (x, time, labels) -> a tensor, or with features and losses


class Denoiser:
    """Adapter around `network(x [B, *D], time [B], labels [B] or None, **conditions) -> [B, *D]`.

    Conditions are tensors [B, ...] by name. A network that declares what it takes, in a mapping `conditions` of names
    to what has a `shape`, is told by `absent` (names to [B] bool) which rows lack one, and returns features where
    asked; see `dit.model.Network`. Any other callable is given what is given here.

    t and the coefficients stay in float32 or better, whatever the network runs in: time is handed over as float32,
    x in the dtype of the network's parameters, and the answer is brought back to x's dtype before any subtraction.

    network: any callable. kind: what it predicts; "edm" also scales its input to unit variance, for data of standard
    deviation sigma_data (Karras et al. 2022, table 1). null_label: the label that means "no class", or None where no
    unconditional prediction was ever trained; guidance that needs one refuses then. learned_variance: the network
    returns twice the channels, and the second half is a variance for `Ancestral` (Nichol and Dhariwal 2021). optional:
    conditions that a picture may lack, because training dropped them or the network was built so; None where nobody
    knows.
    """

    def __init__(
        self,
        network: Network,
        path: GaussianPath,
        kind: str,
        null_label: int | None = None,
        *,
        sigma_data: float = 1.0,
        learned_variance: bool = False,
        optional: frozenset[str] | None = None,
    ):
        self.network, self.path, self.null_label = network, path, null_label
        self.kind: Kind = check_kind(kind)
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        self.sigma_data, self.learned_variance, self.optional = sigma_data, learned_variance, optional

    @property
    def conditions(self) -> dict[str, tuple[int, ...]] | None:
        """Shape of one picture's of each condition that the network takes; None where it does not say."""
        declared = getattr(self.network, "conditions", None)
        return {name: tuple(each.shape) for name, each in declared.items()} if isinstance(declared, Mapping) else None

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        absent: Mapping[str, Tensor] | None = None,
        features: Sequence[str] = (),
        **conditions: Tensor,
    ) -> Prediction:
        """x: [B, *D]; t: scalar or [B] in [0, 1]; labels: [B] or None for "no class" of every row; conditions: [B, ...]
        each; absent: [B] bool each, rows that lack one; features: names of what else to return.

        Raises ValueError where the network returns another shape than x's.
        """
        told = {key: value for key, value in {"absent": absent, "features": features}.items() if value}
        if labels is None and self.null_label is not None:
            labels = torch.full((len(x),), self.null_label, device=x.device)
        time = self.path.network_time(t).float().to(x.device, non_blocking=True).expand(len(x))  # [B]
        coefficients, seen = self.path.coefficients(t), x
        if self.kind == "edm":
            c = coefficients.like(x)
            seen = x / (c.sigma**2 + (self.sigma_data * c.alpha) ** 2) ** 0.5  # [B, *D]
        native = self.network(seen.to(self._network_dtype(x.dtype)), time, labels, **conditions, **told)
        native, found, losses = native if isinstance(native, tuple) else (native, {}, {})
        expected = (x.shape[0], 2 * x.shape[1], *x.shape[2:]) if self.learned_variance else tuple(x.shape)
        if native.shape != expected:
            raise ValueError(
                f"the network returned shape {tuple(native.shape)} for an input of shape {tuple(x.shape)}; "
                f"a {self.kind} prediction {'with a learned variance ' * self.learned_variance}has shape {expected}"
            )
        native, variance = native.to(x.dtype), None
        if self.learned_variance:
            native, variance = native.chunk(2, dim=1)  # [B, *D] each
        return Prediction(native, self.kind, x, coefficients, self.sigma_data, variance, found, losses)

    def _network_dtype(self, default: torch.dtype) -> torch.dtype:
        if isinstance(self.network, nn.Module):
            return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), default)
        return default
