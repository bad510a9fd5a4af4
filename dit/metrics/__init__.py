"""SCORES, each printed with its protocol."""

from dit.metrics.classifier import Classifier, classifier_of, train_classifier
from dit.metrics.dino import Dino
from dit.metrics.features import Extractor, Features, check_pictures, digest_of, extract
from dit.metrics.frechet import frechet
from dit.metrics.generation import Generation, labels_of
from dit.metrics.identity import check_told, networks_named
from dit.metrics.inception import Inception
from dit.metrics.intervals import Estimate
from dit.metrics.measure import Measure, Share, Source, alone, check_enough
from dit.metrics.moments import Gaussian, Moments
from dit.metrics.npz import NpzImages, npz_keys, read_reference, write_moments
from dit.metrics.reference import Reference, reference_of
from dit.metrics.scores import SCORES, score
from dit.metrics.table import Row, protocol_line, rule, table, write_scores

__all__ = [
    "SCORES",
    "Classifier",
    "Dino",
    "Estimate",
    "Extractor",
    "Features",
    "Gaussian",
    "Generation",
    "Inception",
    "Measure",
    "Moments",
    "NpzImages",
    "Reference",
    "Row",
    "Share",
    "Source",
    "alone",
    "check_enough",
    "check_pictures",
    "check_told",
    "classifier_of",
    "digest_of",
    "extract",
    "frechet",
    "labels_of",
    "networks_named",
    "npz_keys",
    "protocol_line",
    "read_reference",
    "reference_of",
    "rule",
    "score",
    "table",
    "train_classifier",
    "write_moments",
    "write_scores",
]
