"""WHAT IS MEASURED, AND WHEN: the keys of evaluate.py, and scores while training. Knows data, checkpoints, scores."""

from dit.scoring.choose import check_keys, given_pictures, measure_of, pictures_of
from dit.scoring.online import OnlineScore
from dit.scoring.subject import Images, Samples

__all__ = ["Images", "OnlineScore", "Samples", "check_keys", "given_pictures", "measure_of", "pictures_of"]
