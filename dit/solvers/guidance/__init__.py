"""One guidance rule a file; each turns a denoiser into a guided one for every solver."""

from dit.solvers.guidance.cfg import CFG
from dit.solvers.guidance.rule import Denoise, Guidance, StepContext

__all__ = ["CFG", "Denoise", "Guidance", "StepContext"]
