"""WHAT IS MINIMISED: objectives, which own the forward pass, and the losses that compare a prediction. Torch only."""

from dit.objectives.loss import MSE, CosineDirection, Loss, MinSNR
from dit.objectives.objective import Comparison, Denoising, Losses, Objective, as_objective, check_features
from dit.objectives.uncertainty import LearnedUncertainty
from dit.objectives.vlb import HybridVLB

__all__ = [
    "MSE",
    "Comparison",
    "CosineDirection",
    "Denoising",
    "HybridVLB",
    "LearnedUncertainty",
    "Loss",
    "Losses",
    "MinSNR",
    "Objective",
    "as_objective",
    "check_features",
]
