"""A picture of any size becomes a square of pixels: the same square every time, or a random one for training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Crop = Callable[[Image.Image, int, int | None], Tensor]

_LONGEST = 32  # times the short side


def center(picture: Image.Image, size: int, draw: int | None = None) -> Tensor:
    """uint8 [C, size, size]: the short side resized to `size` with antialiasing, the centre cropped."""
    pixels = F.pil_to_tensor(_middle(picture))  # [C, H, W]
    if min(pixels.shape[-2:]) != size:
        pixels = F.resize(pixels, [size], antialias=True)
    return F.center_crop(pixels, [size])  # [C, S, S]


def area(picture: Image.Image, size: int, draw: int | None = None) -> Tensor:
    """uint8 [C, size, size] as the reference pictures of ImageNet scores were made (Dhariwal and Nichol 2021, ADM):
    halved by box averages while the short side is at least twice `size`, then bicubic, then the centre."""
    picture = _middle(picture)
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return F.pil_to_tensor(picture.crop((left, top, left + size, top + size)))  # [C, S, S]


def _middle(picture: Image.Image) -> Image.Image:
    """The middle of a strip, which would fill the memory if all of it were enlarged; other pictures as they are."""
    width, height = (min(side, _LONGEST * min(picture.size)) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture if (width, height) == picture.size else picture.crop((left, top, left + width, top + height))


def random_resized(picture: Image.Image, size: int, draw: int | None = None) -> Tensor:
    """uint8 [C, size, size]: a rectangle of 8 to 100 % of the picture, 3:4 to 4:3, resized (Szegedy et al. 2015).

    The rectangle is a function of `draw`; without one, as for validation, it is `center`.
    """
    if draw is None:
        return center(picture, size)
    generator = torch.Generator().manual_seed(draw)
    for _ in range(10):  # until one fits, as is customary
        share, ratio, left, top = torch.rand(4, generator=generator).tolist()
        pixels = (0.08 + 0.92 * share) * picture.width * picture.height
        aspect = math.exp((2 * ratio - 1) * math.log(4 / 3))
        width, height = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < width <= picture.width and 0 < height <= picture.height:
            x, y = int(left * (picture.width - width + 1)), int(top * (picture.height - height + 1))
            return F.resized_crop(F.pil_to_tensor(picture), y, x, height, width, [size, size], antialias=True)
    return center(picture, size)


CROPS: dict[str, Crop] = {"center": center, "area": area, "random_resized": random_resized}
