"""One guidance rule a file; each turns a denoiser into a guided one for every solver."""

from dit.solvers.guidance.cfg import CFG
from dit.solvers.guidance.interval import Interval
from dit.solvers.guidance.rule import Denoise, Guidance, StepContext
from dit.solvers.guidance.tnr import TNR

__all__ = ["CFG", "TNR", "Denoise", "Guidance", "Interval", "StepContext"]
