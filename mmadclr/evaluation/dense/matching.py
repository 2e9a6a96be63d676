"""Matching of clusters to classes: one to one, or the best class of each cluster.

Shape legend: C classes, K clusters. Counts are annotated x predicted (C, K), as in ``segmentation_scores.count_pixels``.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

How = Literal['hungarian', 'precision', 'iou']
UNMATCHED = -1


def cluster_ious(confusion: Tensor) -> Tensor:
    """(C, K) IoU of every class with every cluster, float64; 0 where both are empty."""
    counts = confusion.double()
    union = counts.sum(dim=0) + counts.sum(dim=1, keepdim=True) - counts
    return counts / union.clamp(min=1)


def cluster_precisions(confusion: Tensor) -> Tensor:
    """(C, K) fraction of each cluster's annotated pixels in each class, float64; 0 for empty clusters."""
    counts = confusion.double()
    return counts / counts.sum(dim=0).clamp(min=1)


def match_one_to_one(confusion: Tensor) -> Tensor:
    """(K,) class of every cluster that maximizes the sum of IoUs; ``UNMATCHED`` for clusters in excess of the classes.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("one-to-one matching needs scipy: pip install 'mmadclr[evaluation]'") from error
    # Same cost matrix and orientation as the published code, so that ties are resolved identically.
    rows, columns = linear_sum_assignment(1 - cluster_ious(confusion).cpu().numpy())
    mapping = torch.full((confusion.shape[1],), UNMATCHED)
    mapping[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return mapping


def match_many_to_one(confusion: Tensor, by: Literal['precision', 'iou'] = 'precision') -> Tensor:
    """(K,) class with the highest precision or IoU for every cluster; ties go to the first, so empty clusters to class 0.

    Source: ``experiments/utils.py`` of vpariza/NeCo.
    """
    scores = cluster_precisions(confusion) if by == 'precision' else cluster_ious(confusion)
    return scores.cpu().argmax(dim=0)


@overload
def match_clusters(confusion: Tensor, how: How) -> Tensor: ...


@overload
def match_clusters(confusion: Tensor, how: How | None) -> Tensor | None: ...


def match_clusters(confusion: Tensor, how: How | None) -> Tensor | None:
    """(K,) class of every cluster by one of the matchings; None if clusters already are classes.

    Raises:
        ValueError: Another value of ``how``.
        ImportError: See :func:`match_one_to_one`.
    """
    if how is None:
        return None
    if how == 'hungarian':
        return match_one_to_one(confusion)
    if how in ('precision', 'iou'):
        return match_many_to_one(confusion, how)
    raise ValueError(f"matching={how!r}: must be None, 'hungarian', 'precision' or 'iou'")


def matched_counts(confusion: Tensor, mapping: Tensor | None, unmatched_as: int | None = 0) -> Tensor:
    """Counts (..., C, K) summed by the classes of the clusters: (..., C, C + 1), the last column for no class.

    Args:
        confusion: Of one or many images.
        mapping: (K,) from :func:`match_clusters`.
        unmatched_as: Class of unmatched clusters, 0 in the published code; None: their pixels are misses.
    """
    if mapping is None:
        return confusion
    classes = confusion.shape[-2]
    other = classes if unmatched_as is None else unmatched_as
    target = torch.where(mapping == UNMATCHED, other, mapping).to(confusion.device)
    counts = confusion.new_zeros(*confusion.shape[:-1], classes + 1)
    return counts.index_add_(-1, target, confusion)
