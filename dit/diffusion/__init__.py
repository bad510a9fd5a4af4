"""THE FORWARD PROCESS: paths, predictions, denoisers and training times. Torch only; knows no network class."""

from dit.diffusion.denoiser import Denoiser, Network
from dit.diffusion.path import (
    Coefficients,
    GaussianPath,
    LinearFlow,
    Shifted,
    Trigonometric,
    VarianceExploding,
    VPContinuous,
)
from dit.diffusion.prediction import KINDS, Kind, Prediction
from dit.diffusion.spec import path_from_spec
from dit.diffusion.table import DiscreteVP
from dit.diffusion.times import (
    LogitNormal,
    LogNormalSigma,
    LogUniformSigma,
    TimeDistribution,
    Uniform,
    spread,
    token_shift,
)

__all__ = [
    "KINDS",
    "Coefficients",
    "Denoiser",
    "DiscreteVP",
    "GaussianPath",
    "Kind",
    "LinearFlow",
    "LogNormalSigma",
    "LogUniformSigma",
    "LogitNormal",
    "Network",
    "Prediction",
    "Shifted",
    "TimeDistribution",
    "Trigonometric",
    "Uniform",
    "VPContinuous",
    "VarianceExploding",
    "path_from_spec",
    "spread",
    "token_shift",
]
