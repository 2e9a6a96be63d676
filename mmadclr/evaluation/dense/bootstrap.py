"""Statistical uncertainty of scores: bootstrap intervals over images, videos or pairs, and paired difference tests.

A score is a function of the sampled rows, so ratios such as mIoU are recomputed from summed counts for every
sample. Efron and Tibshirani, *An introduction to the bootstrap*, 1993, chapters 13 (percentile interval) and 15 (permutation
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
Statistic = Callable[[Tensor], float]  # rows (n,) of the units -> score; NaN if undefined


class Interval(NamedTuple):
    """``value``: over all units. ``low``, ``high``: bounds. ``undefined``: number of excluded samples without a score."""

    value: float
    low: float
    high: float
    undefined: int


class Difference(NamedTuple):
    """``interval``: of the first minus the second score. ``p_value``: probability of a difference at least this large by
    chance, two-sided; ``significant``: whether it is below 1 - level.
    """

    interval: Interval
    p_value: float
    significant: bool


def mean_score(values: Tensor) -> Statistic:
    """Mean of one number per unit (N,); NaN units are excluded."""
    return lambda rows: values[rows].double().nanmean().item()


def ratio_score(sums: Tensor, counts: Tensor) -> Statistic:
    """Mean over the parts of units, from sums and numbers of parts (N,): objects of videos, keypoints of pairs."""
    return lambda rows: (sums[rows].double().sum() / counts[rows].sum()).item()


def category_score(sums: Tensor, counts: Tensor, categories: Sequence[int | str]) -> Statistic:
    """Mean over categories of the :func:`ratio_score` of their units; categories without samples are excluded."""
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
    """mIoU of the summed counts of images (N, C, K); clusters are matched again for every sample."""

    def score(rows: Tensor) -> float:
        times = rows.bincount(minlength=len(confusions))
        drawn = times.nonzero().flatten()
        # One image at a time: indexing would copy as much memory as all counts.
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
    """Percentile interval of a score over bootstrap samples of N units.

    Args:
        statistic: Of rows; see :func:`mean_score`, :func:`ratio_score`, :func:`category_score`, :func:`iou_score`.
        units: N.
        generator: For sampling, on the CPU.
        draws: Number of samples.
        level: Confidence level.

    Raises:
        ValueError: Fewer than two units, no samples, ``level`` not between 0 and 1, or units without a score.
    """
    _check(units, draws, level)
    value = statistic(torch.arange(units))
    if np.isnan(value):
        raise ValueError(f'none of the {units} units has a score')
    return interval_of(value, bootstrap_scores(statistic, units, generator, draws), level)


def bootstrap_scores(statistic: Statistic, units: int, generator: torch.Generator, draws: int = DRAWS) -> np.ndarray:
    """Scores (draws,) of bootstrap samples of N units; NaN where a score is undefined.

    Generators with the same seed draw the same units, so scores of two models on the same units are paired.
    """
    return np.array([statistic(torch.randint(units, (units,), generator=generator)) for _ in range(draws)])


def interval_of(value: float, scores: np.ndarray, level: float = LEVEL) -> Interval:
    """Percentile interval of scores (draws,) of bootstrap samples; ``value``: over all units.

    Raises:
        ValueError: All scores are undefined.
    """
    usable = scores[~np.isnan(scores)]
    if not len(usable):
        raise ValueError(f'none of the {len(scores)} draws has a score')
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), len(scores) - len(usable))


def difference_of_scores(value: float, first: np.ndarray, second: np.ndarray, level: float = LEVEL) -> Difference:
    """Difference of two scores from those of the same bootstrap samples (draws,); ``value``: over all units.

    The p-value is twice the share of samples in which the difference has the other sign or none, counting one more such
    sample than was seen.

    Raises:
        ValueError: Different numbers of samples, or no score in any of them.
    """
    if first.shape != second.shape:
        raise ValueError(f'{len(first)} and {len(second)} samples must be the same')
    interval = interval_of(value, first - second, level)
    usable = (first - second)[~np.isnan(first - second)]
    other = min((usable <= 0).sum(), (usable >= 0).sum())
    p_value = min(1.0, 2 * float(other + 1) / (len(usable) + 1))
    return Difference(interval, p_value, p_value < 1 - level)


def paired_difference(
    first: Statistic,
    second: Statistic,
    mixed: Callable[[Tensor], tuple[float, float]],
    units: int,
    generator: torch.Generator,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Difference:
    """Difference of the scores of two models on the same units, and its significance.

    The interval is of differences on the same samples. The p-value is that of a permutation test: for equivalent models,
    results could be exchanged in any unit.

    Args:
        first, second: Scores of rows, one per model.
        mixed: From (N,) booleans, whether the models are exchanged in a unit, to both scores; see :func:`exchanged`.
        units, generator, draws, level: See :func:`bootstrap_interval`.

    Raises:
        ValueError: See ``bootstrap_interval``.
    """
    interval = bootstrap_interval(lambda rows: first(rows) - second(rows), units, generator, draws, level)
    as_large = 1  # the observed difference
    for _ in range(draws):
        one, other = mixed(torch.rand(units, generator=generator) < 0.5)
        as_large += abs(one - other) >= abs(interval.value) * (1 - 1e-12)
    p_value = as_large / (draws + 1)
    return Difference(interval, p_value, p_value < 1 - level)


def exchanged(
    score: Callable[..., Statistic], first: Sequence[Tensor], second: Sequence[Tensor]
) -> Callable[[Tensor], tuple[float, float]]:
    """The ``mixed`` of :func:`paired_difference` for scores ``score(*tensors)`` of tensors (N, ...) of the two models."""

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
        score: Creates a score from tensors (N, ...).
        first, second: The tensors of each model, for the same units in the same order.
        generator, draws, level: See ``bootstrap_interval``.

    Raises:
        ValueError: Different shapes; see ``bootstrap_interval``.
    """
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape:
            raise ValueError(f'results {tuple(a.shape)} and {tuple(b.shape)} must have the same shape')
    mixed = exchanged(score, first, second)
    return paired_difference(score(*first), score(*second), mixed, len(first[0]), generator, draws, level)


def _check(units: int, draws: int, level: float) -> None:
    if units < 2:
        raise ValueError(f'{units} unit(s) to draw from: there must be at least 2')
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f'draws={draws} must be at least 1, and level={level} between 0 and 1')
