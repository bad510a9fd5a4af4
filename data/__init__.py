"""THE PICTURES (code, not files): Lightning data modules that tell their own facts."""

from typing import TYPE_CHECKING

from dit.lazy import on_use

if TYPE_CHECKING:
    from data.augment import Karras
    from data.cifar import Cifar
    from data.digits import Digits
    from data.folder import Folder, folder_classes
    from data.latents import Latents
    from data.pictures import Pictures
    from data.real import Real, real_of_folder, real_of_split
    from data.spec import pictures_from_spec, pictures_spec
    from data.split import Batch
    from data.synthetic import Synthetic

__all__ = [
    "Batch",
    "Cifar",
    "Digits",
    "Folder",
    "Karras",
    "Latents",
    "Pictures",
    "Real",
    "Synthetic",
    "folder_classes",
    "pictures_from_spec",
    "pictures_spec",
    "real_of_folder",
    "real_of_split",
]

__getattr__ = on_use(__name__)
