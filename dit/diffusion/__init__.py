"""THE FORWARD PROCESS: paths, predictions, denoisers, training times and losses. Torch only; knows no network class."""

from dit.diffusion.denoiser import Denoiser, Network
from dit.diffusion.loss import MSE, CosineDirection, LearnedUncertainty, Loss, MinSNR
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
from dit.diffusion.vlb import HybridVLB

__all__ = [
    "KINDS",
    "MSE",
    "Coefficients",
    "CosineDirection",
    "Denoiser",
    "DiscreteVP",
    "GaussianPath",
    "HybridVLB",
    "Kind",
    "LearnedUncertainty",
    "LinearFlow",
    "LogNormalSigma",
    "LogUniformSigma",
    "LogitNormal",
    "Loss",
    "MinSNR",
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
