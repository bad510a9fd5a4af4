"""What a command leaves behind in the process it ran in is put back: a script may run in the tests' own process."""

import logging
import os
import warnings
from contextlib import contextmanager

import torch


@contextmanager
def as_found():
    """Hydra's log writes to a finished run's folder and output, and would be written to by every test that follows."""
    root, folder = logging.getLogger(), os.getcwd()
    handlers, level, shown = root.handlers[:], root.level, warnings.formatwarning
    precision = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        warnings.formatwarning = shown
        torch.set_float32_matmul_precision(precision)
        os.chdir(folder)
