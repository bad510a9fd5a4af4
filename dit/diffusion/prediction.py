"""What a network said about x_t, viewed as x0, eps, v, velocity or score without a needless division."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from dit.diffusion.path import Coefficients

Kind = Literal["x0", "eps", "v", "velocity", "score"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Weight = Tensor | float


def check_kind(kind: str, name: str = "kind") -> Kind:
    """`kind` itself; ValueError unless it is one of KINDS, blaming the setting `name`."""
    if kind not in KINDS:
        raise ValueError(f"{name} must be one of {', '.join(KINDS)}, got {kind!r}")
    return cast(Kind, kind)


def parts(kind: Kind, c: Coefficients) -> tuple[Weight, Weight]:
    """(a, b) with which a quantity of this kind equals a x0 + b eps.

    v is that of Salimans and Ho (2022), alpha eps - sigma x0; velocity is d x_t / dt; score is -eps / sigma.
    """
    match kind:
        case "x0":
            return 1.0, 0.0
        case "eps":
            return 0.0, 1.0
        case "v":
            return -c.sigma, c.alpha
        case "velocity":
            return c.d_alpha, c.d_sigma
        case "score":
            return 0.0, -1 / c.sigma


@dataclass(frozen=True)
class Prediction:
    """One native tensor of one kind at one x_t; every other view is derived on demand.

    With x = alpha x0 + sigma eps and native = a x0 + b eps, any a' x0 + b' eps is p x + q native, where
    q = (alpha b' - sigma a') / D, p = (a' b - b' a) / D and D = alpha b - sigma a. D is the only divisor: a velocity
    is never divided by alpha or sigma, an eps only by alpha, an x0 only by sigma.

    native: [B, *D] what the network returned; kind: its meaning; x: [B, *D]; coefficients: at t, scalar or [B].
    """

    native: Tensor
    kind: Kind
    x: Tensor
    coefficients: Coefficients

    def _combination(self, a_to: Weight, b_to: Weight) -> tuple[Weight, Weight]:
        c = self.coefficients.like(self.x)
        a, b = parts(self.kind, c)
        divisor = c.alpha * b - c.sigma * a
        return (a_to * b - b_to * a) / divisor, (c.alpha * b_to - c.sigma * a_to) / divisor

    def combine(self, a: Weight, b: Weight) -> Tensor:
        """a x0 + b eps, where a and b broadcast over x."""
        p, q = self._combination(a, b)
        return p * self.x + q * self.native  # [B, *D]

    def view(self, kind: Kind) -> Tensor:
        """The prediction as another kind; its own kind returns the native tensor untouched."""
        if kind == self.kind:
            return self.native
        return self.combine(*parts(kind, self.coefficients.like(self.x)))  # [B, *D]

    def gain(self, kind: Kind) -> Tensor:
        """Factor from an error of the native tensor to the error of the view `kind`; broadcasts over x."""
        if kind == self.kind:
            return torch.ones((), dtype=self.x.dtype, device=self.x.device)
        _, q = self._combination(*parts(kind, self.coefficients.like(self.x)))
        return torch.as_tensor(q, dtype=self.x.dtype, device=self.x.device)

    def with_native(self, native: Tensor) -> Prediction:
        """The same x_t with another native tensor. Guidance mixes native tensors; a mix whose weights sum to one is
        the same guidance in every kind, because all conversions are affine with the same x_t."""
        return replace(self, native=native)

    @property
    def x0(self) -> Tensor:
        return self.view("x0")

    @property
    def eps(self) -> Tensor:
        return self.view("eps")

    @property
    def v(self) -> Tensor:
        return self.view("v")

    @property
    def velocity(self) -> Tensor:
        return self.view("velocity")

    @property
    def score(self) -> Tensor:
        return self.view("score")
