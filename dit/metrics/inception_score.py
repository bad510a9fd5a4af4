"""Inception score: how sure the classes of pictures are, and how many there are."""

from __future__ import annotations

import torch
from torch import Tensor


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, Tensor]:
    """exp of the mean KL divergence of p(class | image) to p(class) (Salimans et al. 2016, section 4), averaged over
    shuffled splits, of logits [N, K]; and what image i adds to it to first order in its weight: [N], of mean 0.

    p(class) is the mean over a split, so the number grows with the size of a split. Raises ValueError for fewer images
    than splits.
    """
    if not 0 < splits <= len(logits):
        raise ValueError(f"the inception score of {splits} splits needs at least as many images, got {len(logits)}")
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed)).to(logits.device)
    total, influence = 0.0, torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
    for s in range(splits):
        chosen = order[s * len(logits) // splits : (s + 1) * len(logits) // splits]
        log_p = logits[chosen].double().log_softmax(1)  # [n, K]
        p = log_p.exp()
        divergence = (p * (log_p - p.mean(0).log())).sum(1)  # [n]; nan only where p underflows to 0 for all
        score = divergence.mean().exp()
        total += float(score) / splits
        # The mean p moves too, to no effect: its derivative of the sum of p log p_mean is the sum of p, which is 1.
        influence[chosen] = score * (divergence - divergence.mean()) * (len(logits) / len(chosen) / splits)
    return total, influence
