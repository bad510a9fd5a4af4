"""WHAT IS SAVED AND HOW IT IS LOADED: a checkpoint tells everything sampling needs; nobody retypes it.

Checkpoints of others come in and ours go out here too; `python -m dit.checkpoint -h` does the same by hand.
"""

from dit.checkpoint.exporting import export_diffusers, export_safetensors
from dit.checkpoint.importing import import_checkpoint, import_loaded
from dit.checkpoint.load import Loaded, check_resume, load, load_denoiser, read
from dit.checkpoint.passport import same_normalisation

__all__ = [
    "Loaded",
    "check_resume",
    "export_diffusers",
    "export_safetensors",
    "import_checkpoint",
    "import_loaded",
    "load",
    "load_denoiser",
    "read",
    "same_normalisation",
]
