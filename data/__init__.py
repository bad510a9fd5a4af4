"""THE PICTURES (code, not files): Lightning data modules that tell their own facts."""

from data.augment import Karras
from data.autoencoder import Autoencoder, LatentCodec
from data.cifar import Cifar
from data.codec import codec_from_spec
from data.digits import Digits
from data.facts import RESOLVERS
from data.folder import Folder, folder_classes
from data.latents import Latents
from data.pictures import Pictures
from data.pixels import Pixels
from data.real import Real, real_of_folder, real_of_split
from data.spec import pictures_from_spec, pictures_spec
from data.split import Batch
from data.synthetic import Synthetic

__all__ = [
    "RESOLVERS",
    "Autoencoder",
    "Batch",
    "Cifar",
    "Digits",
    "Folder",
    "Karras",
    "LatentCodec",
    "Latents",
    "Pictures",
    "Pixels",
    "Real",
    "Synthetic",
    "codec_from_spec",
    "folder_classes",
    "pictures_from_spec",
    "pictures_spec",
    "real_of_folder",
    "real_of_split",
]
