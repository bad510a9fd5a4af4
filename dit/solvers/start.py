"""WHERE SAMPLING STARTS, at t_0 of its grid: one class a way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dit.diffusion.path import Coefficients


@dataclass(frozen=True)
class Start(ABC):
    """Makes the first state x [B, *D] of noise of unit variance [B, *D]."""

    name: ClassVar[str]

    @abstractmethod
    def place(self, noise: Tensor | None, c: Coefficients, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """c: of t_0. predict: the unguided x0 at (x, t_0), an evaluation of the network."""

    def check(self, noise: Tensor | None) -> None:
        """Raises ValueError for what does not fit together."""
        if noise is None:
            raise ValueError(
                "noise is needed, [B, *D] of unit variance; only a start from a given state can do without"
            )

    def like(self, noise: Tensor | None) -> Tensor:
        """A tensor of the state's shape [B, *D], dtype and device."""
        assert noise is not None, "check"
        return noise  # [B, *D]


@dataclass(frozen=True)
class FromNoise(Start):
    """sigma noise."""

    name = "noise"

    def place(self, noise: Tensor | None, c: Coefficients, predict: Callable[[Tensor], Tensor]) -> Tensor:
        assert noise is not None, "check"
        return c.sigma * noise  # [B, *D]


@dataclass(frozen=True)
class FromMean(Start):
    """alpha x0 + sigma noise, x0 predicted from sigma noise without guidance: one evaluation more, none where alpha is
    0.

    It gives back the mean that a path which ends before pure noise loses.
    """

    name = "mean"

    def place(self, noise: Tensor | None, c: Coefficients, predict: Callable[[Tensor], Tensor]) -> Tensor:
        assert noise is not None, "check"
        x = c.sigma * noise  # [B, *D]
        return c.alpha * predict(x) + x if float(c.alpha) > 0 else x  # [B, *D]


@dataclass(frozen=True)
class FromImage(Start):
    """alpha image + sigma noise, of a picture [B, *D] in model space (image to image: the lower the grid begins, the
    more is kept)."""

    image: Tensor

    name = "image"

    def place(self, noise: Tensor | None, c: Coefficients, predict: Callable[[Tensor], Tensor]) -> Tensor:
        assert noise is not None, "check"
        return c.alpha * raised(self.image) + c.sigma * noise  # [B, *D]

    def check(self, noise: Tensor | None) -> None:
        super().check(noise)
        _check_shape("image", self.image, noise)


@dataclass(frozen=True)
class FromState(Start):
    """x at t_0 itself [B, *D]; noise may be None if nobody knows what noise is in it."""

    state: Tensor

    name = "state"

    def place(self, noise: Tensor | None, c: Coefficients, predict: Callable[[Tensor], Tensor]) -> Tensor:
        return raised(self.state)  # [B, *D]

    def check(self, noise: Tensor | None) -> None:
        _check_shape("state", self.state, noise)

    def like(self, noise: Tensor | None) -> Tensor:
        return raised(self.state) if noise is None else noise  # [B, *D]


def raised(x: Tensor) -> Tensor:
    """Half precision becomes float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_shape(name: str, given: Tensor, noise: Tensor | None) -> None:
    if noise is not None and given.shape != noise.shape:
        raise ValueError(f"{name} must have the shape of noise, {tuple(noise.shape)}, got {tuple(given.shape)}")
