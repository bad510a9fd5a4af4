"""DINOv2, whose features follow what people see in pictures better than Inception's (Stein et al. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dit.metrics.features import Features, as_rgb, digest_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 was trained


class Dino:
    """pooled [B, F]: the normed class token (F = 1024 for the large model, which published distances are of).

    Pictures are scaled to 224 pixels, bicubic with antialiasing, and normalised by ImageNet's mean and deviation; grey
    ones have their channel repeated. weights: a file of timm's weights for `model`; without it, it is downloaded once.
    Raises ValueError where timm, the file or the download is missing.
    """

    name = "dinov2"
    min_size = 1
    size = 224

    def __init__(self, weights: Path | str | None = None, model: str = "vit_large_patch14_dinov2.lvd142m"):
        try:
            import timm
        except ImportError as missing:
            raise ValueError("the dinov2 features need timm: pip install timm") from missing
        if weights is not None and not Path(weights).is_file():
            raise ValueError(f"weights={weights} is no file: timm's weights of {model} are wanted")
        source = {} if weights is None else {"file": str(weights)}
        try:
            self.network = timm.create_model(
                model, pretrained=True, pretrained_cfg_overlay=source, img_size=self.size, num_classes=0
            )
        except OSError as reason:
            line = (str(reason).splitlines() or [type(reason).__name__])[0]
            raise ValueError(
                f"cannot download the weights of {model} ({line}): give weights=PATH to a copy of them"
            ) from reason
        except RuntimeError as reason:
            line = (str(reason).splitlines() or [type(reason).__name__])[0]
            raise ValueError(f"weights={weights} does not fit {model}: {line}") from reason
        self.network.eval().requires_grad_(False)
        self.model = model
        self.digest = digest_of(self.network)

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "model": self.model, "digest": self.digest, "held_out_accuracy": None}

    def to(self, device: torch.device | str) -> Dino:
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        device = next(self.network.parameters()).device
        x = as_rgb(images, self.name).to(device).float() / 255  # [B, 3, H, W]
        x = F.interpolate(x, size=(self.size, self.size), mode="bicubic", antialias=True).clamp(
            0, 1
        )  # [B, 3, 224, 224]
        mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (MEAN, STD))
        return Features(self.network((x - mean) / std))
