"""J, F and J&F of video object segmentation.

Perazzi et al., *A benchmark dataset and evaluation methodology for video object segmentation*, CVPR 2016;
davisvideochallenge/davis2017-evaluation, ``davis2017/{evaluation,metrics,utils}.py``.

Shape legend: O objects, T frames, H x W pixels. Scores are fractions, 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

BOUND = 0.008
VOID = 255
BINS = 4


class SequenceScores(NamedTuple):
    """``j``, ``f``: (O, T - 2), without the first and last frames. ``late``: labels not in the first frame, which are not
    scored. ``unpredicted``: objects missing from all predictions, which score 0 where they are annotated, and 1 elsewhere.
    """

    j: np.ndarray
    f: np.ndarray
    late: tuple[int, ...]
    unpredicted: tuple[int, ...]


class Statistics(NamedTuple):
    """Of one object: mean, fraction of frames above 0.5, and decay (mean of the first minus that of the last quarter)."""

    mean: float
    recall: float
    decay: float


def region_similarity(prediction: np.ndarray, annotation: np.ndarray, void: np.ndarray | None = None) -> np.ndarray:
    """(T,) J, the IoU, of boolean masks (T, H, W); 1 if both are empty. ``void`` pixels are excluded."""
    prediction, annotation = _without(prediction, void), _without(annotation, void)
    union = (prediction | annotation).sum(axis=(1, 2))
    hits = (prediction & annotation).sum(axis=(1, 2))
    return np.where(union > 0, hits / np.maximum(union, 1), 1.0)


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """(H, W) whether a pixel differs from its right, lower or lower right neighbor, among those inside the image."""
    mask = np.asarray(mask, bool)
    padded = np.pad(mask, ((0, 1), (0, 1)), mode='edge')
    right, below, across = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:].copy()
    # In the last row or column there is no separate corner neighbor.
    across[-1], across[:, -1] = right[-1], below[:, -1]
    return (mask ^ right) | (mask ^ below) | (mask ^ across)


def boundary_radius(size: tuple[int, int], bound: float = BOUND) -> int:
    """Radius in pixels: ``bound`` itself if at least 1, otherwise that fraction of the diagonal, rounded up."""
    return int(bound) if bound >= 1 else math.ceil(bound * math.hypot(*size))


def boundary_accuracy(
    prediction: np.ndarray, annotation: np.ndarray, void: np.ndarray | None = None, bound: float = BOUND
) -> np.ndarray:
    """(T,) F, the harmonic mean of precision and recall of boundaries, of boolean masks (T, H, W).

    A boundary pixel is matched if the other boundary has a pixel within a disk around it. 1 if both have no boundary, 0 if
    one.

    Raises:
        ValueError: ``bound`` is not above 0.
    """
    if not bound > 0:
        raise ValueError(f'bound={bound} must be above 0')
    prediction, annotation = _without(prediction, void), _without(annotation, void)
    radius = boundary_radius(prediction.shape[1:], bound)
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    return np.array([_f(boundary_map(p), boundary_map(a), disk) for p, a in zip(prediction, annotation, strict=True)])


def _without(masks: np.ndarray, void: np.ndarray | None) -> np.ndarray:
    return np.asarray(masks, bool) if void is None else np.asarray(masks, bool) & ~np.asarray(void, bool)


def _f(predicted: np.ndarray, annotated: np.ndarray, disk: np.ndarray) -> float:
    if not predicted.any() or not annotated.any():
        return float(not predicted.any() and not annotated.any())
    near_annotated, near_predicted = (cv2.dilate(x.astype(np.uint8), disk).astype(bool) for x in (annotated, predicted))
    precision = (predicted & near_annotated).sum() / predicted.sum()
    recall = (annotated & near_predicted).sum() / annotated.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def evaluate_sequence(
    predictions: np.ndarray, annotations: np.ndarray, void: np.ndarray | None = None, bound: float = BOUND
) -> SequenceScores:
    """J and F of every object of a video, by frame.

    Objects are the labels from 1 to the maximum in the first frame's annotation. Pixels annotated as 255 are background,
    as in the published semi-supervised task; pixels in ``void`` are excluded.

    Args:
        predictions, annotations: (T, H, W) integers, 0 for background.
        void: None, or (T, H, W) pixels to exclude.
        bound: See :func:`boundary_radius`.

    Raises:
        ValueError: Different sizes, fewer than three frames, no object in the first frame, numbers of objects with gaps, or
            a predicted label that is not an object.
    """
    predictions, annotations = np.asarray(predictions), np.asarray(annotations)
    if predictions.shape != annotations.shape or predictions.ndim != 3:
        raise ValueError(
            f'predictions {predictions.shape} and annotations {annotations.shape} must be (T, H, W), of the same size'
        )
    if len(annotations) < 3:
        raise ValueError(
            f'a video of {len(annotations)} frame(s): there must be at least 3, since the first and last are not scored'
        )
    annotations = np.where(annotations == VOID, 0, annotations)
    objects = int(annotations[0].max())
    if not objects:
        raise ValueError('the first frame has no object to score: remove the video from the list')
    absent = sorted({*range(1, objects + 1)} - {*np.unique(annotations).tolist()})
    if absent:
        raise ValueError(
            f'objects {", ".join(map(str, absent))} of {objects} are in no frame, and would score 100 %: number the objects '
            '1, 2, ... without gaps'
        )
    if predictions.max() > objects:
        raise ValueError(
            f'predicted label {predictions.max()} must be at most {objects}, the number of objects in the first frame'
        )
    scored = slice(1, -1)
    left_out = None if void is None else np.asarray(void)[scored]
    pairs = [(predictions[scored] == label, annotations[scored] == label) for label in range(1, objects + 1)]
    return SequenceScores(
        np.stack([region_similarity(*pair, left_out) for pair in pairs]),
        np.stack([boundary_accuracy(*pair, left_out, bound) for pair in pairs]),
        tuple(sorted({*np.unique(annotations).tolist()} - {*range(objects + 1)})),
        tuple(label for label in range(1, objects + 1) if not (predictions[scored] == label).any()),
    )


def statistics(values: np.ndarray) -> Statistics:
    """Of the scores (T,) of one object. Adjacent quarters share a frame: bounds are evenly spaced and rounded."""
    bounds = np.round(np.linspace(1, len(values), BINS + 1) + 1e-10).astype(int) - 1
    first, last = values[bounds[0] : bounds[1] + 1], values[bounds[-2] : bounds[-1] + 1]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean()))


def summarize(sequences: Sequence[SequenceScores]) -> dict[str, float]:
    """``davis_J&F`` and mean, recall and decay of J and F in percent: means over objects, not over videos.

    Raises:
        ValueError: No video.
    """
    if not sequences:
        raise ValueError('no video: there are no scores to average')
    found = {}
    for name in ('j', 'f'):
        objects = [statistics(values) for sequence in sequences for values in getattr(sequence, name)]
        for key, column in zip(Statistics._fields, np.array(objects).T, strict=True):
            found[f'davis_{name.upper()}_{key}'] = 100 * float(column.mean())
    return {'davis_J&F': (found['davis_J_mean'] + found['davis_F_mean']) / 2} | found
