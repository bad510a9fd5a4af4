"""WHAT IS MEASURED, AND WHEN: the keys of evaluate.py, and scores while training. Knows data, checkpoints, scores."""

from dit.scoring.choose import check_same, measure_of, of_pictures, of_samples
from dit.scoring.online import OnlineScore

__all__ = ["OnlineScore", "check_same", "measure_of", "of_pictures", "of_samples"]
