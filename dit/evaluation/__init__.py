"""SCORES, each printed with its protocol."""

from typing import TYPE_CHECKING

from dit.lazy import on_use

if TYPE_CHECKING:
    from dit.evaluation.classifier import Classifier, classifier_of, train_classifier
    from dit.evaluation.dino import Dino
    from dit.evaluation.features import Extractor, Features, check_pictures, digest_of, extract
    from dit.evaluation.frechet_distance import frechet
    from dit.evaluation.generation import Generation, labels_of
    from dit.evaluation.identity import check_told, networks_named
    from dit.evaluation.inception import Inception
    from dit.evaluation.intervals import Estimate
    from dit.evaluation.measure import Measure, Share, Source, alone, check_enough
    from dit.evaluation.moments import Gaussian, Moments
    from dit.evaluation.npz import NpzImages, npz_keys, read_reference, write_moments
    from dit.evaluation.reference import Reference, reference_of
    from dit.evaluation.scores import SCORES, score
    from dit.evaluation.tables import Row, protocol_line, rule, table, write_scores

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

__getattr__ = on_use(__name__)
