"""What a network said about x_t, viewed as x0, eps, v, velocity, score or EDM's F without a needless division."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from dit.diffusion.path import Coefficients

Kind = Literal["x0", "eps", "v", "velocity", "score", "edm"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Weight = Tensor | float


def check_kind(kind: str, name: str = "kind") -> Kind:
    """`kind` itself; ValueError unless it is one of KINDS, blaming the setting `name`."""
    if kind not in KINDS:
        raise ValueError(f"{name} must be one of {', '.join(KINDS)}, got {kind!r}")
    return cast(Kind, kind)


def check_positive(value: object, name: str) -> None:
    """ValueError unless `value` is a positive, finite number, blaming the setting `name`."""
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def parts(kind: Kind, c: Coefficients, sigma_data: float = 1.0) -> tuple[Weight, Weight]:
    """(a, b) with which a quantity of this kind equals a x0 + b eps.

    v is that of Salimans and Ho (2022), alpha eps - sigma x0; velocity is d x_t / dt; score is -eps / sigma; edm is
    the output F of a preconditioned network (Karras et al. 2022, table 1), for data of standard deviation sigma_data.
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
        case "edm":
            size = (c.sigma**2 + (sigma_data * c.alpha) ** 2) ** 0.5
            return c.sigma / (sigma_data * size), -sigma_data * c.alpha / size


@dataclass(frozen=True)
class Prediction:
    """One native tensor of one kind at one x_t; every other view is derived on demand.

    With x = alpha x0 + sigma eps and native = a x0 + b eps, any a' x0 + b' eps is p x + q native, where
    q = (alpha b' - sigma a') / D, p = (a' b - b' a) / D and D = alpha b - sigma a. D is the only divisor: a velocity
    is never divided by alpha or sigma, an eps only by alpha, an x0 only by sigma.

    native: [B, *D] what the network returned; kind: its meaning; x: [B, *D]; coefficients: at t, scalar or [B].
    sigma_data: of the kind "edm", else without meaning. variance: [B, *D], where a network learned one, its second
    half: -1 to 1 from the smallest to the largest log-variance of a reverse step (Nichol and Dhariwal 2021, eq. 15).
    features, losses: what else the network returned, by name, where an objective asked.
    """

    native: Tensor
    kind: Kind
    x: Tensor
    coefficients: Coefficients
    sigma_data: float = 1.0
    variance: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    losses: Mapping[str, Tensor] = field(default_factory=dict)

    def parts(self, kind: Kind) -> tuple[Weight, Weight]:
        """(a, b) of `kind` here, broadcasting over x; see the function of this name."""
        return parts(kind, self.coefficients.like(self.x), self.sigma_data)

    def native_of(self, x0: Tensor, eps: Tensor) -> Tensor:
        """What the network would return for a known pair [B, *D]."""
        a, b = self.parts(self.kind)
        return a * x0 + b * eps  # [B, *D]

    def _combination(self, a_to: Weight, b_to: Weight) -> tuple[Weight, Weight]:
        c = self.coefficients.like(self.x)
        a, b = self.parts(self.kind)
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
        return self.combine(*self.parts(kind))  # [B, *D]

    def gain(self, kind: Kind) -> Tensor:
        """Factor from an error of the native tensor to the error of the view `kind`; broadcasts over x."""
        if kind == self.kind:
            return torch.ones((), dtype=self.x.dtype, device=self.x.device)
        _, q = self._combination(*self.parts(kind))
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
