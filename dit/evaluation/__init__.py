"""SCORES, each printed with its protocol."""

from dit.evaluation.classifier import Classifier, train_classifier
from dit.evaluation.dino import Dino
from dit.evaluation.features import Extractor, Features, check_pictures, extract
from dit.evaluation.frechet import frechet, frechet_distance
from dit.evaluation.inception import Inception
from dit.evaluation.intervals import Estimate
from dit.evaluation.moments import Gaussian, Moments
from dit.evaluation.npz import NpzImages, read_reference, write_moments
from dit.evaluation.reference import Reference, reference_of
from dit.evaluation.report import Score, protocol_line, score_images, score_sampler, table
from dit.evaluation.scores import SCORES, score

__all__ = [
    "SCORES",
    "Classifier",
    "Dino",
    "Estimate",
    "Extractor",
    "Features",
    "Gaussian",
    "Inception",
    "Moments",
    "NpzImages",
    "Reference",
    "Score",
    "check_pictures",
    "extract",
    "frechet",
    "frechet_distance",
    "protocol_line",
    "read_reference",
    "reference_of",
    "score",
    "score_images",
    "score_sampler",
    "table",
    "train_classifier",
    "write_moments",
]
