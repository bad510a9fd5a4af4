"""Any network, a path and the kind it predicts, as one callable: denoiser(x, t, labels) -> Prediction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dit.diffusion.path import GaussianPath
from dit.diffusion.prediction import Kind, Prediction, check_kind

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Denoiser:
    """Adapter around `network(x [B, *D], time [B], labels [B] or None) -> [B, *D]`.

    t and the coefficients stay in float32 or better, whatever the network runs in: time is handed over as float32,
    x in the dtype of the network's parameters, and the answer is brought back to x's dtype before any subtraction.

    network: any callable. kind: what it predicts. null_label: the label that means "no class", or None where no
    unconditional prediction was ever trained; guidance that needs one refuses then.
    """

    def __init__(self, network: Network, path: GaussianPath, kind: str, null_label: int | None = None):
        self.network, self.path, self.null_label = network, path, null_label
        self.kind: Kind = check_kind(kind)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Prediction:
        """x: [B, *D]; t: scalar or [B] in [0, 1]; labels: [B] or None for "no class" of every row.

        Raises ValueError where the network returns another shape than x's.
        """
        if labels is None and self.null_label is not None:
            labels = torch.full((len(x),), self.null_label, device=x.device)
        time = self.path.network_time(t).float().to(x.device).expand(len(x))  # [B]
        native = self.network(x.to(self._network_dtype(x.dtype)), time, labels)
        if native.shape != x.shape:
            raise ValueError(
                f"the network returned shape {tuple(native.shape)} for an input of shape {tuple(x.shape)}; "
                f"a {self.kind} prediction has the shape of its input"
            )
        return Prediction(native.to(x.dtype), self.kind, x, self.path.coefficients(t))

    def _network_dtype(self, default: torch.dtype) -> torch.dtype:
        if isinstance(self.network, nn.Module):
            return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), default)
        return default
