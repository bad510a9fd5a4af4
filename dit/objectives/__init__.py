"""WHAT IS MINIMISED: objectives, which own the forward pass, and the losses that compare a prediction. Torch only."""

from dit.objectives.loss import MSE, CosineDirection, Loss, MinSNR
from dit.objectives.objective import Denoising, Losses, Objective, as_objective, check_features, predict
from dit.objectives.uncertainty import LearnedUncertainty
from dit.objectives.vlb import HybridVLB

__all__ = [
    "MSE",
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
    "predict",
]
