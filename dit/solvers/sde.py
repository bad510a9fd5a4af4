"""Solvers that draw noise in every step, and keep account of what noise is inside x."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from dit.diffusion.path import per_image
from dit.diffusion.posterior import ReverseStep
from dit.solvers.guidance.rule import Denoise
from dit.solvers.ode import Euler, Heun, RungeKutta
from dit.solvers.solver import Solver


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM with fresh noise (Song et al. 2021, eq. 12 and 16): eta 0 is Euler, 1 is DDPM and ancestral sampling."""

    eta: float = 1.0
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"solver.eta must lie between 0 and 1, got {self.eta}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, predict, path, x, t, t_next, state, noise):
        here, there = path.coefficients(t), path.coefficients(t_next)
        share = self.eta**2 * (1 - there.noise_ratio(here) ** 2)  # of the variance sigma^2 at the end
        c = there.like(x)
        x = predict(x, t).combine(c.alpha, c.sigma * math.sqrt(1 - share))
        if share == 0 or float(there.sigma) == 0:
            return x, state
        fresh = noise()
        return x + c.sigma * math.sqrt(share) * fresh, state.renewed(share, fresh)


@dataclass(frozen=True)
class Ancestral(Solver):
    """DDPM's reverse step (Ho et al. 2020, eq. 7 and 11) between any two noise levels.

    variance: "small" is the posterior's, beta tilde, "large" is beta, and "learned" lies between their logarithms where
    the network says (Nichol and Dhariwal 2021, eq. 15; DiT), or small in a step in which a rule asks no network. On a
    subset of a table the betas are those of the subset.
    """

    variance: Literal["small", "large", "learned"] = "small"
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large", "learned"):
            raise ValueError(f"solver.variance must be small, large or learned, got {self.variance!r}")

    @property
    def stochastic(self) -> bool:
        return True

    def check(self, denoiser: Denoise, grid: Tensor) -> None:
        if self.variance == "learned" and not getattr(denoiser, "learned_variance", False):
            raise ValueError("solver.variance=learned needs a network that learned one; here small or large is allowed")

    def step(self, predict, path, x, t, t_next, state, noise):
        here, there = path.coefficients(t), path.coefficients(t_next)
        prediction = predict(x, t)
        c = there.like(x)
        if float(there.sigma) == 0:
            return prediction.x0, state
        chain = ReverseStep.between(here, there)
        if self.variance == "learned" and prediction.variance is not None:
            variance = chain.learned(prediction.variance)  # [B, *D]
        else:
            variance = (chain.large if self.variance == "large" else chain.small).to(x.dtype)
        kept = c.sigma**2 * (1 - chain.share.to(x.dtype))
        fresh = noise()
        x = prediction.combine(c.alpha, kept.sqrt()) + variance.sqrt() * fresh
        return x, state.renewed(variance / (variance + kept), fresh)


@dataclass(frozen=True)
class SDEDPMSolverPP(Solver):
    """SDE-DPM-Solver++ of order 1 or 2, multistep (Lu et al. 2022), with eta times the SDE's noise."""

    order: int = 2
    eta: float = 1.0
    evaluations = 1

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"solver.order must be 1 or 2, got {self.order}")
        if not (self.eta >= 0 and math.isfinite(self.eta)):
            raise ValueError(f"solver.eta must be at least 0 and finite, got {self.eta}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, predict, path, x, t, t_next, state, noise):
        here, there = path.coefficients(t), path.coefficients(t_next)
        x0, ratio = predict(x, t).x0, there.noise_ratio(here)
        if float(there.sigma) == 0:
            return x0, state
        c, d = here.like(x), there.like(x)
        pulled = 1 - ratio ** (1 + self.eta)
        mixture = pulled * x0
        ends = [float(path.log_snr(s)) / 2 for s in (t, t_next)]
        if self.order == 2 and math.isfinite(ends[0]):
            if state.memory is not None:
                before, x0_before = state.memory
                mixture = mixture + pulled / 2 * (ends[1] - ends[0]) / (ends[0] - before) * (x0 - x0_before)
            state = replace(state, memory=(ends[0], x0))
        x = d.sigma / c.sigma * ratio**self.eta * x + d.alpha * mixture
        if self.eta == 0:
            return x, state
        share, fresh = 1 - ratio ** (2 * self.eta), noise()
        return x + d.sigma * math.sqrt(share) * fresh, state.renewed(share, fresh)


Diffusion = Literal["sbdm", "constant", "sigma", "linear", "decreasing", "increasing_decreasing"]
LastStep = Literal["tweedie", "mean"]


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler-Maruyama on the reverse SDE dx = (velocity - w/2 score) dt + sqrt(w) dW (Ma et al. 2024, SiT),
    with any amount of noise w that leaves the marginals as they are.

    Steps are made in the coordinates of the linear flow, x / (alpha + sigma) against s = sigma / (alpha + sigma), where
    w is a function of s and of c = `scale`, which is SiT's norm: 2 c s/(1 - s) for "sbdm", at c = 1 the forward
    process's own; 2 c for "constant"; 2 c s for "sigma" and "linear"; 2 c sin(pi s)^2 for "increasing_decreasing"; and
    (c cos(pi (1 - s)) + 1)^2 / 2 for "decreasing", in which c scales the cosine alone. On `LinearFlow` these are SiT's.
    A step that divides sigma/alpha by ten and would draw more noise than there is draws all of it anew, which is the
    limit of any such process; so do the steps from pure noise, where sbdm's w is infinite. "sbdm" near noise and
    "constant" near data want short steps.

    last_step: what the step to clean data is. "tweedie" is the denoised picture, which SiT's "Euler" also is in these
    coordinates. "mean" is one more step without its noise, which leaves -w/2 eps in the picture: published pictures of
    SiT and REPA end so, from s = 0.04 (`UniformGrid(last=0.04)`).
    """

    diffusion: Diffusion = "sigma"
    scale: float = 1.0
    last_step: LastStep = "tweedie"
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        if self.diffusion not in get_args(Diffusion):
            raise ValueError(
                f"solver.diffusion must be one of {', '.join(get_args(Diffusion))}, got {self.diffusion!r}"
            )
        if not self.scale > 0:
            raise ValueError(f"solver.scale must be positive, got {self.scale}")
        if self.last_step not in get_args(LastStep):
            raise ValueError(f"solver.last_step must be one of {', '.join(get_args(LastStep))}, got {self.last_step!r}")

    @property
    def stochastic(self) -> bool:
        return True

    def amount(self, s: float) -> float:
        """w at the time s of the linear flow, 0 at data."""
        match self.diffusion:
            case "sbdm":
                return self.scale * 2 * s / (1 - s) if s < 1 else math.inf
            case "constant":
                return self.scale * 2
            case "sigma" | "linear":
                return self.scale * 2 * s
            case "decreasing":
                return (self.scale * math.cos(math.pi * (1 - s)) + 1) ** 2 / 2
            case "increasing_decreasing":
                return self.scale * 2 * math.sin(math.pi * s) ** 2

    def step(self, predict, path, x, t, t_next, state, noise):
        here, there = path.coefficients(t), path.coefficients(t_next)
        prediction = predict(x, t)
        c, d = here.like(x), there.like(x)
        begin, end = (float(k.sigma / (k.alpha + k.sigma)) for k in (here, there))
        amount = self.amount(begin)
        if end == 0 and (self.last_step == "tweedie" or math.isinf(amount)):
            return prediction.x0, state
        spread = amount * (begin - end)
        if end > 0 and there.noise_ratio(here) < 0.1 and spread > end**2:
            # A long step near pure noise, which would draw more noise than there is and keep hardly any of the old.
            fresh = noise()
            return prediction.combine(d.alpha, 0) + d.sigma * fresh, state.renewed(1, fresh)
        slope = prediction.combine(-1, 1 + amount / (2 * begin))  # velocity - w/2 score = eps - x0 + w/2 eps/s
        y = x / (c.alpha + c.sigma) + (end - begin) * slope
        if end == 0:
            return d.alpha * y, state
        fresh = noise()
        y = y + math.sqrt(spread) * fresh
        return (d.alpha + d.sigma) * y, state.renewed(spread / end**2, fresh)


@dataclass(frozen=True)
class Churn(Solver):
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): raise the noise level a little, then step from there.

    amount: S_churn, spread over the steps; u_min, u_max: S_tmin, S_tmax, between which sigma/alpha is raised;
    inflation: S_noise. solver: makes the step. The level is never raised above the path's last, nor from pure noise.
    """

    amount: float = 40.0
    u_min: float = 0.0
    u_max: float | None = None
    inflation: float = 1.0
    solver: Solver = field(default_factory=lambda: Heun("u"))

    def __post_init__(self) -> None:
        for name in ("amount", "inflation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"solver.{name} must be at least 0 and finite, got {getattr(self, name)}")
        if not isinstance(self.solver, Euler | RungeKutta):
            raise ValueError(
                f"solver.solver must be Euler, Heun, Midpoint, RK4 or RK38, got {type(self.solver).__name__}"
            )

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.order

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.evaluations

    @property
    def stochastic(self) -> bool:
        return self.amount > 0

    def init(self, noise, grid):
        return replace(self.solver.init(noise, grid), memory=len(grid) - 1)

    def step(self, predict, path, x, t, t_next, state, noise):
        here, last = path.coefficients(t), path.coefficients(torch.ones((), dtype=torch.float64))
        u, u_last = float(here.sigma / here.alpha), float(last.sigma / last.alpha)
        raised = min(u * (1 + min(self.amount / state.memory, math.sqrt(2) - 1)), u_last)
        if self.u_min <= u <= (math.inf if self.u_max is None else self.u_max) and u < raised < math.inf:
            fresh = noise()
            t = path.t_from_log_snr(torch.tensor(-2 * math.log(raised), dtype=torch.float64))
            alpha = path.coefficients(t).like(x).alpha
            x = alpha * (x / here.like(x).alpha + self.inflation * math.sqrt(raised**2 - u**2) * fresh)
            state = state.renewed(1 - (u / raised) ** 2, fresh)
        x, _ = self.solver.step(lambda x, t, *_: predict(x, t, state.true_noise), path, x, t, t_next, state, noise)
        return x, state


@dataclass(frozen=True)
class Langevin(Solver):
    """Predictor and corrector (Song et al. 2021b): a step of `predictor`, then Langevin steps at the
    level it reached, of a size set by `snr` for each image. No correction at clean data. The size does not shrink with
    the steps, nor does its bias, which is small only where an image has many pixels (std 2 % too large at 64).
    """

    predictor: Solver = field(default_factory=Euler)
    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.corrections < 1 or not self.snr > 0:
            raise ValueError(
                f"solver needs corrections of at least 1 and snr > 0, got {self.corrections} and {self.snr}"
            )

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.predictor.order

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.predictor.evaluations + self.corrections

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def couples_images(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.predictor.couples_images

    def init(self, noise, grid):
        return self.predictor.init(noise, grid)

    def check(self, denoiser, grid):
        self.predictor.check(denoiser, grid)

    def step(self, predict, path, x, t, t_next, state, noise):
        x, state = self.predictor.step(predict, path, x, t, t_next, state, noise)
        there = path.coefficients(t_next)
        if float(there.sigma) == 0:
            return x, state
        sigma = there.like(x).sigma
        for _ in range(self.corrections):
            eps, fresh = predict(x, t_next, state.true_noise).eps, noise()
            sizes = [per_image(v.flatten(1).norm(dim=1), x) for v in (fresh, eps)]
            # In units of sigma^2, [B, 1, ...]; at a half, a step is made of as much new noise as there is in x.
            size = (2 * (self.snr * sizes[0] / sizes[1]) ** 2).clamp(max=0.5)
            x = x - size * sigma * eps + (2 * size).sqrt() * sigma * fresh
            state = state.renewed(2 * size, fresh)
        return x, state
