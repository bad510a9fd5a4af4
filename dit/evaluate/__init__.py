"""WHAT IS MEASURED, AND WHEN: the keys of evaluate.py, and scores while training. Knows data, checkpoints, scores."""

from dit.evaluate.choose import check_keys, given_pictures, measure_of, pictures_of
from dit.evaluate.online import OnlineMetrics
from dit.evaluate.share import share_of
from dit.evaluate.subject import Images, Samples

__all__ = [
    "Images",
    "OnlineMetrics",
    "Samples",
    "check_keys",
    "given_pictures",
    "measure_of",
    "pictures_of",
    "share_of",
]
