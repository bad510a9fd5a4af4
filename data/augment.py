"""Non-leaky augmentation: pictures are changed at random, and the network is told how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from data.draws import normals, uniforms
from dit.checks import shown


@dataclass(frozen=True)
class Karras:
    """Flips, scaling, rotation, stretching and translation, whose parameters are a condition of the network (Karras et
    al. 2022, EDM, appendix F.2), so that it learns to draw pictures of which none was changed: those of condition 0.

    x_flip: mirror half of the pictures. Each of the others is considered for a picture with `probability`. y_flip:
    upside down, half of those considered. scale, anisotropy: standard deviations, in doublings, of the factor of both
    sides and of that by which one direction grows while the other shrinks. rotation: up to so much of a full circle,
    uniform. translation: standard deviation, in sides of the picture. 0 or false is never. dim: numbers in the
    condition, for the model to read in the configuration.

    Scaling, rotation, stretching and translation are one bicubic resampling in model space, with what lies outside
    reflected at the edge; pictures that are only flipped, or not changed at all, keep every bit.
    """

    dim: int = 9
    probability: float = 0.12
    x_flip: bool = True
    y_flip: bool = True
    scale: float = 0.2
    rotation: float = 1.0
    anisotropy: float = 0.2
    translation: float = 0.125

    # How many random numbers a picture takes: 2 flips, 2 angles, whether to do each of 5, and 4 for as many normals.
    _COLUMNS: ClassVar[tuple[int, int, int, int]] = (2, 2, 5, 4)

    def __post_init__(self) -> None:
        if isinstance(self.dim, bool) or not isinstance(self.dim, int) or self.dim != 9:
            raise ValueError(f"data.augment.dim must be 9, as many numbers tell what was done, got {shown(self.dim)}")
        for key in ("x_flip", "y_flip"):
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"data.augment.{key} must be true or false, got {shown(getattr(self, key))}")
        for key in ("probability", "scale", "rotation", "anisotropy", "translation"):
            value = getattr(self, key)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
                raise ValueError(f"data.augment.{key} must be in [0, 1], got {shown(value)}")

    def __call__(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """images [B, C, S, S] in model space, and of each the number [B] int64 that decides; the pictures as changed
        and what was done [B, dim]."""
        condition = self.condition(draws)  # [B, 9]
        return self.transform(images, condition), condition

    def condition(self, draws: Tensor) -> Tensor:
        """What is done to pictures of draws [B]: [B, dim], in units in which each is at most about 1.

        The flips as 0 or 1, scale, cos - 1 and sin of the rotation, the stretch as a vector (its strength, and twice
        the angle of its axis, as an axis turned by half a circle is the same), translation right and down.
        """
        flips, turns, coins, seeds = uniforms(draws, sum(self._COLUMNS)).split(self._COLUMNS, dim=1)
        done = (coins < self.probability).float()  # [B, 5]
        x_flip, y_flip = (flips < 0.5).float().unbind(1)  # [B] each
        # Not done[:, [...]], which would copy the list to the device and wait.
        strength = normals(seeds) * torch.stack([done[:, column] for column in (1, 3, 4, 4)], dim=1)  # [B, 4]
        scale, stretch, right, down = strength.unbind(1)  # [B] each
        turn, axis = (2 * math.pi * turns).unbind(1)  # [B] each
        angle = self.rotation * (turn - math.pi) * done[:, 2]  # [B]
        columns = (
            x_flip * self.x_flip,
            y_flip * done[:, 0] * self.y_flip,
            scale * bool(self.scale),
            angle.cos() - 1,
            angle.sin(),
            stretch * axis.cos() * bool(self.anisotropy),
            stretch * axis.sin() * bool(self.anisotropy),
            right * bool(self.translation),
            down * bool(self.translation),
        )
        return torch.stack(columns, dim=1)  # [B, 9]

    def transform(self, images: Tensor, condition: Tensor) -> Tensor:
        """images [B, C, S, S], changed as condition [B, dim] says: flipped, scaled, turned to the left, stretched, and
        moved, in this order."""
        x_flip, y_flip = (column.view(-1, 1, 1, 1).bool() for column in condition[:, :2].unbind(1))
        images = torch.where(x_flip, images.flip(-1), images)  # [B, C, S, S]
        images = torch.where(y_flip, images.flip(-2), images)  # [B, C, S, S]
        moves = (condition[:, 2:] != 0).any(1)  # [B]
        if not images.is_cpu:  # to ask which move would wait for the device
            return torch.where(moves[:, None, None, None], self._moved(images, condition), images)  # [B, C, S, S]
        rows = moves.nonzero().flatten()  # [n]
        if not len(rows):
            return images  # [B, C, S, S]
        return images.index_copy(0, rows, self._moved(images.index_select(0, rows), condition[rows]))  # [B, C, S, S]

    def _moved(self, images: Tensor, condition: Tensor) -> Tensor:
        grid = F.affine_grid(self._sources(condition).to(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)

    def _sources(self, condition: Tensor) -> Tensor:
        """Where each point of the result comes from: affine maps [n, 2, 3] of the square from -1 to 1, y downwards."""
        _, _, scale, cos, sin, stretch_x, stretch_y, right, down = condition.unbind(1)  # [n] each
        cos = cos + 1  # [n]
        turn = _matrix(cos, -sin, sin, cos)  # [n, 2, 2]
        # exp(-k [[cos a, sin a], [sin a, -cos a]]) = cosh k - sinh k [[cos a, sin a], [sin a, -cos a]]
        strength = torch.hypot(stretch_x, stretch_y).clamp(min=1e-12)  # [n]
        k = strength * self.anisotropy * math.log(2)  # [n]
        same, x, y = k.cosh(), k.sinh() * stretch_x / strength, k.sinh() * stretch_y / strength  # [n] each
        shrink = torch.exp2(-scale * self.scale)[:, None, None]  # [n, 1, 1]
        linear = shrink * turn @ _matrix(same - x, -y, -y, same + x)  # [n, 2, 2]
        offset = 2 * self.translation * torch.stack([right, down], dim=1)[..., None]  # [n, 2, 1]
        return torch.cat([linear, -linear @ offset], dim=2)  # [n, 2, 3]


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], dim=1).unflatten(1, (2, 2))  # [n, 2, 2]
