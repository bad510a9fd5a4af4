"""The Inception network of published scores, with the weights that torch-fidelity converted from TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.metrics.features import Features, as_rgb, digest_of

SPATIAL = 7  # channels of the 1x1 branch of mixed_6, as the ADM suite takes them: 17 * 17 * 7 = 2023 features


class Inception:
    """pooled [B, 2048], spatial [B, 2023], and logits [B, 1008] without the bias, as torch-fidelity and the ADM suite
    have them for the inception score. Pictures of any size are scaled to 299 by the bilinear resize of TensorFlow 1;
    grey ones have their channel repeated.

    weights: a copy of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`; without it, it is downloaded once.
    Raises ValueError where torch-fidelity, the file or the download is missing.
    """

    name = "inception"
    min_size = 1

    def __init__(self, weights: Path | str | None = None):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
        except ImportError as missing:
            raise ValueError("the inception features need torch-fidelity: pip install 'ditlab[metrics]'") from missing
        if weights is not None:
            _check(Path(weights))
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                None if weights is None else str(weights),
                verbose=False,
            )
        except OSError as reason:
            raise ValueError(
                f"cannot download the Inception weights ({reason}): give weights=PATH to a copy of {URL_INCEPTION_V3}"
            ) from reason
        except RuntimeError as reason:
            raise ValueError(f"weights={weights} does not fit torch-fidelity's Inception: {_line(reason)}") from reason
        self.digest = digest_of(self.network)
        self._spatial = torch.empty(0)
        self.network.Mixed_6d.register_forward_hook(self._keep)

    def _keep(self, module: object, inputs: object, maps: Tensor) -> None:
        self._spatial = maps[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)  # [B, 2023]: channels last, as the suite's

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "digest": self.digest, "held_out_accuracy": None}

    def to(self, device: torch.device | str) -> Inception:
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        device = self.network.fc.weight.device
        pooled, logits = self.network(as_rgb(images, self.name).to(device))
        return Features(pooled, self._spatial.float(), logits)


def _check(weights: Path) -> None:
    """A file that is there and holds tensors alone: torch-fidelity would run what else a pickle holds."""
    try:
        torch.load(weights, weights_only=True, mmap=True)
    except Exception as reason:
        raise ValueError(f"weights={weights} cannot be read as a file of tensors: {_line(reason)}") from reason


def _line(reason: Exception) -> str:
    return (str(reason).splitlines() or [type(reason).__name__])[0]
