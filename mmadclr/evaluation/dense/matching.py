"""Which class a cluster stands for: one to one, or the best class of each.

Shape legend: C classes, K clusters. Counts are annotated x predicted (C, K), as of ``segmentation_scores.count_pixels``.
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
    """(C, K) share of each cluster's annotated pixels that are of a class, float64; 0 for empty clusters."""
    counts = confusion.double()
    return counts / counts.sum(dim=0).clamp(min=1)


def match_one_to_one(confusion: Tensor) -> Tensor:
    """(K,) class of every cluster, so that the sum of IoUs is largest; ``UNMATCHED`` for clusters beyond the classes.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("one-to-one matching needs scipy: pip install 'mmadclr[evaluation]'") from error
    # The costs of the published code, in its orientation: of equal matchings, the same one is found.
    rows, columns = linear_sum_assignment(1 - cluster_ious(confusion).cpu().numpy())
    mapping = torch.full((confusion.shape[1],), UNMATCHED)
    mapping[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return mapping


def match_many_to_one(confusion: Tensor, by: Literal['precision', 'iou'] = 'precision') -> Tensor:
    """(K,) class of the highest precision or IoU of every cluster, the first of equals: empty clusters go to class 0.

    Source: ``experiments/utils.py`` of vpariza/NeCo.
    """
    scores = cluster_precisions(confusion) if by == 'precision' else cluster_ious(confusion)
    return scores.cpu().argmax(dim=0)


@overload
def match_clusters(confusion: Tensor, how: How) -> Tensor: ...


@overload
def match_clusters(confusion: Tensor, how: How | None) -> Tensor | None: ...


def match_clusters(confusion: Tensor, how: How | None) -> Tensor | None:
    """(K,) class of every cluster by one of the matchings; None where clusters are classes already.

    Raises:
        ValueError: ``how`` is something else.
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
    """Counts (..., C, K) by the classes that clusters stand for: (..., C, C + 1), the last column for no class.

    Args:
        confusion: Of one image, or of many.
        mapping: (K,) from :func:`match_clusters`.
        unmatched_as: Class that unmatched clusters stand for, 0 in the published code; None: their pixels are missed.
    """
    if mapping is None:
        return confusion
    classes = confusion.shape[-2]
    other = classes if unmatched_as is None else unmatched_as
    target = torch.where(mapping == UNMATCHED, other, mapping).to(confusion.device)
    counts = confusion.new_zeros(*confusion.shape[:-1], classes + 1)
    return counts.index_add_(-1, target, confusion)
