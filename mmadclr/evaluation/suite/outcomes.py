"""Results of protocols, with bootstrap intervals over their images, videos or pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmadclr.evaluation.dense.bootstrap import Statistic, bootstrap_scores, interval_of, iou_score
from mmadclr.evaluation.dense.matching import How, matched_counts
from mmadclr.evaluation.dense.segmentation_scores import Over


class Outcome(NamedTuple):
    """Result of a protocol on a benchmark.

    ``metrics``: percent, by the full name. ``statistics``: fractions, of sampled units, by the same names, of metrics that
    can be recomputed. ``units``: number of images, videos or pairs. ``notes``: what a reader of the table has to know.
    ``about``: further results.
    """

    metrics: dict[str, float]
    statistics: dict[str, Statistic]
    units: int
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = {}


class Sampled(NamedTuple):
    """``metrics``: ``value``, ``low`` and ``high`` of each, percent. ``samples``: scores of bootstrap samples, percent."""

    metrics: dict[str, dict[str, float | None]]
    samples: dict[str, list[float | None]]


def sampled(outcome: Outcome, draws: int, seed: int = 0) -> Sampled:
    """Intervals and samples of metrics; no bounds and samples for metrics without statistic or for one unit.

    The same seed draws the same units, for all metrics and checkpoints.
    """
    metrics: dict[str, dict[str, float | None]] = {}
    samples: dict[str, list[float | None]] = {}
    for name, value in outcome.metrics.items():
        metrics[name] = dict(value=value, low=None, high=None)
        if name in outcome.statistics and outcome.units > 1 and draws:
            generator = torch.Generator().manual_seed(seed)
            scores = 100 * bootstrap_scores(outcome.statistics[name], outcome.units, generator, draws)
            interval = interval_of(value, scores)
            metrics[name] |= dict(low=interval.low, high=interval.high)
            samples[name] = [None if score != score else round(score, 4) for score in scores.tolist()]
    return Sampled(metrics, samples)


def mapped_score(confusions: Tensor, mapping: Tensor, over: Over = 'all') -> Statistic:
    """mIoU of summed counts of images (N, C, K) whose clusters keep their classes (K,)."""
    return iou_score(matched_counts(confusions, mapping), over)


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """Mean of several scores of the same units."""
    return lambda rows: sum(score(rows) for score in statistics) / len(statistics)


def matched_score(confusions: Tensor, how: How | None, over: Over = 'all') -> Statistic:
    """See ``iou_score``."""
    return iou_score(confusions.cpu(), over, how)


def names_of(labels: Sequence[int], classes: Sequence[str], most: int = 5) -> str:
    """Names of classes, at most some of them."""
    named = [classes[label] if label < len(classes) else str(label) for label in labels]
    rest = f' and {len(named) - most} more' if len(named) > most else ''
    return ', '.join(named[:most]) + rest
