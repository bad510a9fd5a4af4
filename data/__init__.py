"""THE PICTURES (code, not files): Lightning data modules that tell their own facts."""

from data.cifar import Cifar
from data.digits import Digits
from data.folder import Folder, folder_classes
from data.pictures import Batch, Pictures
from data.pixels import Pixels, codec_from_spec

__all__ = ["Batch", "Cifar", "Digits", "Folder", "Pictures", "Pixels", "codec_from_spec", "folder_classes"]
