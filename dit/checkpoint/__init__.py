"""WHAT IS SAVED AND HOW IT IS LOADED: a checkpoint tells everything sampling needs; nobody retypes it.

Checkpoints of others come in and ours go out here too; `python -m dit.checkpoint -h` does the same by hand.
"""

from typing import TYPE_CHECKING

from dit.lazy import on_use

if TYPE_CHECKING:
    from dit.checkpoint.exporting import export_diffusers, export_safetensors
    from dit.checkpoint.importing import import_checkpoint, import_loaded
    from dit.checkpoint.loading import Model, load, load_denoiser
    from dit.checkpoint.metadata import Metadata, same_codec
    from dit.checkpoint.power import check_length, gamma
    from dit.checkpoint.reading import LAST, PREVIOUS, check_resume, check_sums, read
    from dit.checkpoint.snapshots import SNAPSHOTS, list_snapshots, reconstruct, write_snapshot
    from dit.checkpoint.stored import StoredMetadata

__all__ = [
    "LAST",
    "PREVIOUS",
    "SNAPSHOTS",
    "Metadata",
    "Model",
    "StoredMetadata",
    "check_length",
    "check_resume",
    "check_sums",
    "export_diffusers",
    "export_safetensors",
    "gamma",
    "import_checkpoint",
    "import_loaded",
    "list_snapshots",
    "load",
    "load_denoiser",
    "read",
    "reconstruct",
    "same_codec",
    "write_snapshot",
]

__getattr__ = on_use(__name__)
