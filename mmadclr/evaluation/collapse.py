"""Statistics that reveal collapse in self-distillation.

Shape legend: N rows (tokens), D channels, K prototypes. All results are scalars on the device of their input.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def relative_entropy(probs: Tensor) -> Tensor:
    """Mean entropy of the rows (N, K), as a fraction of ln K: 1 for uniform rows, 0 for one-hot ones."""
    return torch.special.entr(probs).sum(dim=1).mean() / math.log(probs.shape[1])


def kl_divergence(probs: Tensor, log_probs: Tensor) -> Tensor:
    """Mean over the rows of KL(p || q) in nats, from p and ln q (N, K)."""
    return F.kl_div(log_probs, probs, reduction='batchmean')


def prototypes_in_use(probs: Tensor) -> Tensor:
    """exp of the entropy of the mean assignment (N, K): 1 if all rows use one prototype, K if all are used equally."""
    return torch.special.entr(probs.mean(dim=0)).sum().exp()


def top_share(probs: Tensor) -> Tensor:
    """Mean assignment to the most used prototype over the rows (N, K)."""
    return probs.mean(dim=0).max()


def feature_spread(features: Tensor) -> Tensor:
    """Per-channel standard deviation of the normalized rows (N, D), averaged, times sqrt D.

    1 for isotropic directions, 0 if all rows are equal (Chen and He, *Exploring simple siamese representation
    learning*, CVPR 2021, section 4.1).
    """
    rows = F.normalize(features, dim=1)
    return rows.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5


def rank_me(features: Tensor) -> Tensor:
    """Effective rank of the rows (N, D): exp of the entropy of their normalized singular values, 1 to min(N, D).

    Garrido et al., *RankMe*, ICML 2023. Synchronizes with the device. NaN if a value is not finite.
    """
    if not features.isfinite().all():
        return features.new_full((), math.nan)
    values = torch.linalg.svdvals(features)
    return torch.special.entr(values / values.sum()).sum().exp()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine similarity of corresponding rows (N, D)."""
    return F.cosine_similarity(a, b, dim=1).mean()


def evenly(rows: Tensor, number: int) -> Tensor:
    """At most ``number`` rows of (N, D), evenly spaced."""
    return rows[:: -(-len(rows) // number) if len(rows) else 1]
