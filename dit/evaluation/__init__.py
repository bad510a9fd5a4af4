"""SCORES, each printed with its protocol."""

from dit.evaluation.classifier import Classifier, train_classifier
from dit.evaluation.frechet import frechet_distance
from dit.evaluation.precision_recall import precision_recall
from dit.evaluation.rows import Score, protocol_line, score_images, score_sampler, table

__all__ = [
    "Classifier",
    "Score",
    "frechet_distance",
    "precision_recall",
    "protocol_line",
    "score_images",
    "score_sampler",
    "table",
    "train_classifier",
]
