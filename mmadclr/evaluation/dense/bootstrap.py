"""How far chance can move a score: bootstrap intervals over images, videos or pairs, and tests of paired differences.

A score is a function of the rows that were drawn, so ratios such as mIoU are computed anew from summed counts for every
draw. Efron and Tibshirani, *An introduction to the bootstrap*, 1993, chapters 13 (percentile interval) and 15 (permutation
test).

Shape legend: N units (images, videos, pairs), C classes, K predicted classes or clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmadclr.evaluation.dense.matching import How, match_clusters, matched_counts
from mmadclr.evaluation.dense.segmentation_scores import Over, mean_iou

DRAWS, LEVEL = 1000, 0.95
Statistic = Callable[[Tensor], float]  # rows (n,) of the units -> score; NaN where they have none


class Interval(NamedTuple):
    """``value``: of all units. ``low``, ``high``: bounds. ``undefined``: number of draws that had no score, left out."""

    value: float
    low: float
    high: float
    undefined: int


class Difference(NamedTuple):
    """``interval``: of the first less the second score. ``p_value``: how often chance alone makes a difference as large, in
    either direction; ``significant``: whether that is less often than 1 - level."""

    interval: Interval
    p_value: float
    significant: bool


def mean_score(values: Tensor) -> Statistic:
    """Mean of one number for each unit (N,); units without a number (NaN) are left out."""
    return lambda rows: values[rows].double().nanmean().item()


def ratio_score(sums: Tensor, counts: Tensor) -> Statistic:
    """Mean over the parts of units, from sums and numbers of parts (N,): objects of videos, key points of pairs."""
    return lambda rows: (sums[rows].double().sum() / counts[rows].sum()).item()


def category_score(sums: Tensor, counts: Tensor, categories: Sequence[int | str]) -> Statistic:
    """Mean over categories of :func:`ratio_score` of their units; categories that were not drawn are left out."""
    _, numbers = np.unique(np.asarray(categories), return_inverse=True)
    numbers = torch.from_numpy(numbers)

    def score(rows: Tensor) -> float:
        total, parts = (x[rows].double() for x in (sums, counts))
        found = [numbers[rows].bincount(each, minlength=int(numbers.max()) + 1) for each in (total, parts)]
        return (found[0] / found[1])[found[1] > 0].mean().item()

    return score


def iou_score(
    confusions: Tensor, over: Over = 'all', matching: How | None = None, unmatched_as: int | None = 0
) -> Statistic:
    """mIoU of the summed counts of images (N, C, K); clusters are matched anew for every draw."""

    def score(rows: Tensor) -> float:
        times = rows.bincount(minlength=len(confusions))
        drawn = times.nonzero().flatten()
        # Images one after the other: a copy of the drawn ones would be as large as all counts.
        confusion = torch.zeros(confusions.shape[1:], dtype=torch.int64)
        for row in drawn.tolist():
            confusion += int(times[row]) * confusions[row].cpu()
        if not confusion.any():
            return float('nan')
        return mean_iou(matched_counts(confusion, match_clusters(confusion, matching), unmatched_as), over)

    return score


def bootstrap_interval(
    statistic: Statistic, units: int, generator: torch.Generator, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """Percentile interval of a score under draws of as many units, with replacement.

    Args:
        statistic: Of rows; see :func:`mean_score`, :func:`ratio_score`, :func:`category_score`, :func:`iou_score`.
        units: N.
        generator: Of the draws, on the CPU.
        draws: How many.
        level: Share of the draws inside of the interval.

    Raises:
        ValueError: Fewer than two units, no draws, a level that is not between 0 and 1, units that have no score.
    """
    _check(units, draws, level)
    value = statistic(torch.arange(units))
    if np.isnan(value):
        raise ValueError(f'none of {units} units has a score')
    found = np.array([statistic(torch.randint(units, (units,), generator=generator)) for _ in range(draws)])
    usable = found[~np.isnan(found)]
    if not len(usable):
        raise ValueError(f'none of {draws} draws of {units} units has a score')
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), int(len(found) - len(usable)))


def paired_difference(
    first: Statistic,
    second: Statistic,
    mixed: Callable[[Tensor], tuple[float, float]],
    units: int,
    generator: torch.Generator,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Difference:
    """Difference of the scores of two models on the same units, and whether it is larger than chance.

    The interval is of differences, both on the same drawn units. The p value is of a permutation test: if the models were
    alike, their results could be exchanged in any unit.

    Args:
        first, second: Scores of rows, of either model.
        mixed: From (N,) booleans, whether the models are exchanged in a unit, to both scores; see :func:`exchanged`.
        units, generator, draws, level: See :func:`bootstrap_interval`.

    Raises:
        ValueError: See ``bootstrap_interval``.
    """
    interval = bootstrap_interval(lambda rows: first(rows) - second(rows), units, generator, draws, level)
    as_large = 1  # the one that was observed
    for _ in range(draws):
        one, other = mixed(torch.rand(units, generator=generator) < 0.5)
        as_large += abs(one - other) >= abs(interval.value) * (1 - 1e-12)
    p_value = as_large / (draws + 1)
    return Difference(interval, p_value, p_value < 1 - level)


def exchanged(
    score: Callable[..., Statistic], first: Sequence[Tensor], second: Sequence[Tensor]
) -> Callable[[Tensor], tuple[float, float]]:
    """The ``mixed`` of :func:`paired_difference` for scores ``score(*tensors)`` of tensors (N, ...) of either model."""

    def mixed(swap: Tensor) -> tuple[float, float]:
        rows = torch.arange(len(swap))
        pairs = [(swap.view(-1, *[1] * (a.ndim - 1)).to(a.device), a, b) for a, b in zip(first, second, strict=True)]
        one = score(*(torch.where(flags, b, a) for flags, a, b in pairs))
        other = score(*(torch.where(flags, a, b) for flags, a, b in pairs))
        return one(rows), other(rows)

    return mixed


def compare_models(
    score: Callable[..., Statistic],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    generator: torch.Generator,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Difference:
    """:func:`paired_difference` of ``score(*tensors)``, such as ``mean_score`` of ``[values]`` or ``iou_score`` of
    ``[confusions]``.

    Args:
        score: Makes a score of tensors (N, ...).
        first, second: The tensors of either model, of the same units in the same order.
        generator, draws, level: See ``bootstrap_interval``.

    Raises:
        ValueError: Tensors of other shapes; see ``bootstrap_interval``.
    """
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape:
            raise ValueError(f'results {tuple(a.shape)} and {tuple(b.shape)} must be of the same units')
    mixed = exchanged(score, first, second)
    return paired_difference(score(*first), score(*second), mixed, len(first[0]), generator, draws, level)


def _check(units: int, draws: int, level: float) -> None:
    if units < 2:
        raise ValueError(f'{units} unit(s) to draw from: there must be two, or every draw is the same')
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f'draws={draws} must be at least 1, and level={level} between 0 and 1')
