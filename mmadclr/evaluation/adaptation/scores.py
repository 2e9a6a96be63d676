"""Measures of a model as scores of images, with intervals and paired differences over images.

Shape legend: N images, M images with masks, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmadclr.evaluation.adaptation.label_free import (
    alignment_distances,
    knn_hits,
    neighbor_agreement,
    rank_score,
    retrieval_hits,
    uniformity_score,
)
from mmadclr.evaluation.adaptation.outputs import Outputs
from mmadclr.evaluation.collapse import evenly
from mmadclr.evaluation.dense.bootstrap import (
    DRAWS,
    LEVEL,
    Difference,
    Interval,
    Statistic,
    bootstrap_interval,
    compare_models,
    mean_score,
)

GROUPS = 40
MOST_PAIRED = 4000  # images for statistics of all pairs, or of all left-out groups


class Kind(NamedTuple):
    """A kind of measure. ``higher``: whether higher is better. ``labeled``: whether it uses labels. ``decides``: whether
    it can decide whether a model is better; others describe features. ``about``: one line for tables.
    """

    higher: bool
    labeled: bool
    decides: bool
    about: str


KINDS = {
    'retrieval': Kind(True, False, True, '% of images that find their crop among those of all images, and the reverse'),
    'patch_agreement': Kind(True, False, True, '% of nearest patches in other images that mirroring leaves the same'),
    'alignment': Kind(False, False, False, 'mean squared distance of an image and its crop, 0 to 4'),
    'uniformity': Kind(False, False, False, 'log mean Gaussian potential of pairs of images; 0: all equal'),
    'rank': Kind(True, False, False, 'effective rank of the features (RankMe)'),
    'knn': Kind(True, True, True, '% of images whose class the nearest other images find'),
}
MIOU = Kind(True, True, True, 'mIoU in % of masks, from frozen patches')


def kind_of(name: str) -> Kind:
    """The kind of a measure by its name; mIoUs have the names of their classifiers.

    Raises:
        ValueError: Unknown name.
    """
    if name in KINDS:
        return KINDS[name]
    if name.endswith('_miou'):
        return MIOU
    raise ValueError(f'measure {name!r} is unknown: choose one of {", ".join(KINDS)}, or a mIoU of the dense probe')


class Score(NamedTuple):
    """A measure of one model.

    ``tensors``: (N, ...) of each image, from which ``statistic(*tensors)`` makes a function of the drawn images.
    ``resampled``: whether images may be drawn repeatedly, which changes the rank of features and pairs of images.
    """

    tensors: tuple[Tensor, ...]
    statistic: Callable[..., Statistic]
    resampled: bool = True

    @property
    def value(self) -> float:
        return self.statistic(*self.tensors)(torch.arange(len(self.tensors[0])))


def scores_of(outputs: Outputs, k: int = 20, temperature: float = 0.07) -> dict[str, Score]:
    """The measures that need no masks, by name; ``knn`` if there are labels of at least two classes.

    Args:
        outputs: Of one model.
        k, temperature: Of the k-NN.
    """
    some = evenly(outputs.whole, MOST_PAIRED)
    found = {
        'retrieval': Score((100 * retrieval_hits(outputs.whole, outputs.crop),), mean_score),
        'patch_agreement': Score((100 * neighbor_agreement(outputs.patches, outputs.mirrored),), mean_score),
        'alignment': Score((alignment_distances(outputs.whole, outputs.crop),), mean_score),
        'uniformity': Score((some,), uniformity_score, resampled=False),
        'rank': Score((some,), rank_score, resampled=False),
    }
    if outputs.labels is not None and len(outputs.labels.unique()) > 1:
        found['knn'] = Score((100 * knn_hits(outputs.whole, outputs.labels, k, temperature),), mean_score)
    return found


def dense_scores(counts: Mapping[str, Tensor]) -> dict[str, Score]:
    """mIoUs in percent, from the pixel counts (M, 3, C) of each image by the name of the classifier.

    Args:
        counts: See :func:`mmadclr.evaluation.adaptation.masks.image_counts`.
    """
    return {name: Score((each,), percent_iou) for name, each in counts.items()}


def percent_iou(counts: Tensor) -> Statistic:
    """mIoU in percent over the classes annotated in the drawn images, from pixel counts (M, 3, C).

    As :func:`mmadclr.evaluation.dense_probe.mean_iou` of the drawn images; NaN without annotated pixels.
    """
    table = counts.double().flatten(1)

    def score(rows: Tensor) -> float:
        correct, annotated, predicted = (rows.bincount(minlength=len(table)).double() @ table).unflatten(0, counts.shape[1:])
        seen = annotated > 0
        return 100 * (correct / (annotated + predicted - correct))[seen].mean().item()

    return score


def interval(score: Score, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Interval:
    """Confidence interval of a measure over images: bootstrap percentiles or, where images must not be repeated, jackknife.

    Raises:
        ValueError: See ``bootstrap_interval``.
    """
    statistic, units = score.statistic(*score.tensors), len(score.tensors[0])
    if score.resampled:
        return bootstrap_interval(statistic, units, torch.Generator().manual_seed(seed), draws, level)
    return jackknife(statistic, units, level)[0]


def difference(first: Score, second: Score, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Difference:
    """``first`` minus ``second``, measured on the same images, with interval and p-value.

    Raises:
        ValueError: Different shapes; see ``bootstrap_interval``.
    """
    if first.resampled:
        generator = torch.Generator().manual_seed(seed)
        return compare_models(first.statistic, first.tensors, second.tensors, generator, draws, level)
    units = len(first.tensors[0])
    if units != len(second.tensors[0]):
        raise ValueError(f'{units} and {len(second.tensors[0])} images: both models must be measured on the same images')
    one, other = (score.statistic(*score.tensors) for score in (first, second))
    found, error = jackknife(partial(_change, one, other), units, level)
    p_value = _two_sided(found.value, error)
    return Difference(found, p_value, p_value < 1 - level)


def standard_errors(first: Mapping[str, Score], second: Mapping[str, Score]) -> dict[str, float]:
    """Standard errors over images of the differences of two models, for measures that can decide.

    Of means of one value per image by the standard deviation, of mIoUs by the jackknife.
    """
    found = {}
    for name, score in first.items():
        if score.statistic is mean_score:
            changes = (score.tensors[0] - second[name].tensors[0]).double()
            found[name] = (changes.std() / len(changes) ** 0.5).item()
        elif score.statistic is percent_iou:
            one, other = (each[name].statistic(*each[name].tensors) for each in (first, second))
            found[name] = jackknife(partial(_change, one, other), len(score.tensors[0]))[1]
    return found


def _change(one: Statistic, other: Statistic, rows: Tensor) -> float:
    return one(rows) - other(rows)


def jackknife(statistic: Statistic, units: int, level: float = LEVEL, groups: int = GROUPS) -> tuple[Interval, float]:
    """Normal interval and standard error by leaving out one group of units at a time.

    Efron and Tibshirani, *An introduction to the bootstrap*, 1993, chapter 11, with groups of units. On average it is not
    too narrow (Efron and Stein, *The jackknife estimate of variance*, Annals of Statistics 1981), but may be too wide.

    Args:
        statistic: Of rows.
        units: Number of units, at least 3.
        level: Confidence level.
        groups: At most this many.
    """
    parts = np.array_split(np.random.default_rng(0).permutation(units), min(groups, units))
    rows = np.arange(units)
    found = [statistic(torch.from_numpy(np.setdiff1d(rows, part))) for part in parts]
    error = float(np.sqrt((len(parts) - 1) / len(parts) * np.square(np.array(found) - np.mean(found)).sum()))
    value, half = statistic(torch.from_numpy(rows)), NormalDist().inv_cdf((1 + level) / 2) * error
    return Interval(value, value - half, value + half, 0), error


def _two_sided(value: float, error: float) -> float:
    """Probability of a larger deviation from zero by chance."""
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return 2 * NormalDist().cdf(-abs(value) / error)
