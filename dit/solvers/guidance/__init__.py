"""One guidance rule a file: each says which passes it needs now and combines them, for every solver.

Rules nest. From the inside out: a linear rule (CFG, Autoguidance, Compose, ...), Interval, Rescale, TNR, and
DynamicThreshold or VelocityLimit last.
"""

from dit.solvers.guidance.apg import APG
from dit.solvers.guidance.autoguidance import Autoguidance
from dit.solvers.guidance.cfg import CFG
from dit.solvers.guidance.cfg_plus_plus import CFGPlusPlus
from dit.solvers.guidance.cfg_zero_star import CFGZeroStar
from dit.solvers.guidance.classifier import ClassifierGuidance
from dit.solvers.guidance.compose import Compose
from dit.solvers.guidance.interval import Interval
from dit.solvers.guidance.relative import Relative
from dit.solvers.guidance.rescale import Rescale
from dit.solvers.guidance.rule import COND, EVERYTHING, UNCOND, Denoise, Guidance, Pass, Stage, StepContext
from dit.solvers.guidance.scale import CosineScale, LinearScale
from dit.solvers.guidance.threshold import DynamicThreshold
from dit.solvers.guidance.tnr import TNR
from dit.solvers.guidance.velocity_limit import VelocityLimit

__all__ = [
    "APG",
    "CFG",
    "COND",
    "EVERYTHING",
    "TNR",
    "UNCOND",
    "Autoguidance",
    "CFGPlusPlus",
    "CFGZeroStar",
    "ClassifierGuidance",
    "Compose",
    "CosineScale",
    "Denoise",
    "DynamicThreshold",
    "Guidance",
    "Interval",
    "LinearScale",
    "Pass",
    "Relative",
    "Rescale",
    "Stage",
    "StepContext",
    "VelocityLimit",
]
