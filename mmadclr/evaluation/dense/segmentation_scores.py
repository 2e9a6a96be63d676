"""Scores of label maps: pixel counts, and the three mean IoUs in common use, each under its own name.

Shape legend: N images, C classes, K predicted classes or clusters, H x W pixels. Scores are fractions, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Over = Literal['all', 'seen', 'annotated']
COUNT_BYTES = 2**28
VOID = 255


class PixelCounts(NamedTuple):
    """``confusions``: (N, C, K) int32 pixels of each image, annotated x predicted. ``ignored``: (N,) ignored pixels."""

    confusions: Tensor
    ignored: Tensor

    @property
    def confusion(self) -> Tensor:
        """(C, K) int64, summed over images."""
        return self.confusions.sum(dim=0, dtype=torch.int64)


class MeanOverImages(NamedTuple):
    """``value``: mean over images with an annotated pixel. ``left_out``: number of images without one."""

    value: float
    left_out: int


class SegmentationResult(NamedTuple):
    """Result of a protocol.

    ``metrics``: percent, by name. ``counts``: per image, before clusters are matched, which allows bootstrapping.
    ``mapping``: (K,) class of each predicted class or cluster, None without matching. ``unlearned``: classes
    annotated in the test images but absent from the training images; they count with their IoU of 0.
    """

    metrics: dict[str, float]
    counts: PixelCounts
    mapping: Tensor | None = None
    unlearned: tuple[int, ...] = ()


def is_ignored(masks: Tensor, ignore: Collection[int]) -> Tensor:
    """Where a label map has an ignored label."""
    return torch.isin(masks, torch.tensor(sorted(ignore), dtype=torch.int64, device=masks.device))


def check_masks(masks: Tensor, num_classes: int, ignore: Collection[int], what: str = 'masks') -> None:
    """Checks that label maps contain only classes and ignored labels.

    Raises:
        ValueError: Values that are not integers, or other labels.
    """
    if masks.is_floating_point() or masks.is_complex() or masks.dtype == torch.bool:
        raise ValueError(f'{what} of dtype {masks.dtype}: labels must be integers')
    unknown = masks[~is_ignored(masks, ignore) & ((masks < 0) | (masks.long() >= num_classes))]
    if len(unknown):
        raise ValueError(
            f'{what}: label {int(unknown[0])} is neither one of the {num_classes} classes nor one of the ignored labels '
            f'{sorted(ignore)}: add it to ignore, or raise num_classes'
        )


def count_pixels(
    prediction: Tensor, masks: Tensor, num_classes: int, num_predicted: int | None = None, ignore: Collection[int] = (VOID,)
) -> PixelCounts:
    """Counts pixels by annotated and predicted class, per image.

    Args:
        prediction: (N, ...) integers from 0 to K - 1; values at ignored pixels are irrelevant.
        masks: (N, ...) labels of the same shape.
        num_classes, num_predicted: C and K; K is C unless clusters are predicted.
        ignore: Labels whose pixels are ignored; they are counted separately.

    Raises:
        ValueError: Different shapes, labels that are neither classes nor ignored, predictions out of range.
    """
    if prediction.shape != masks.shape:
        raise ValueError(f'predictions {tuple(prediction.shape)} and masks {tuple(masks.shape)} must have the same shape')
    check_masks(masks, num_classes, ignore)
    columns = num_classes if num_predicted is None else num_predicted
    valid = ~is_ignored(masks, ignore)
    check_masks(prediction[valid], columns, (), 'predictions')
    step = max(1, COUNT_BYTES // (8 * num_classes * columns))
    parts = [
        _count(said, labels, counted, num_classes, columns)
        for said, labels, counted in zip(*(x.split(step) for x in (prediction, masks, valid)), strict=True)
    ]
    return PixelCounts(torch.cat(parts), (~valid).flatten(1).sum(dim=1))


def _count(prediction: Tensor, masks: Tensor, valid: Tensor, rows: int, columns: int) -> Tensor:
    images = torch.arange(len(masks), device=masks.device).view(-1, *[1] * (masks.ndim - 1))
    codes = (images * rows + masks) * columns + prediction
    counts = codes[valid].bincount(minlength=len(masks) * rows * columns)
    return counts.view(len(masks), rows, columns).int()


class ClassCounts(NamedTuple):
    """Pixels of each class (..., C), int64: true positives, false positives, misses."""

    hits: Tensor
    false_positives: Tensor
    misses: Tensor


def class_counts(confusion: Tensor) -> ClassCounts:
    """From counts (..., C, K) with K >= C; columns from C on are predictions of no class.

    Raises:
        ValueError: K < C.
    """
    classes, predicted = confusion.shape[-2:]
    if predicted < classes:
        raise ValueError(f'{predicted} clusters are not matched to {classes} classes: see mmadclr.evaluation.dense.matching')
    confusion = confusion.long()
    hits = confusion.diagonal(dim1=-2, dim2=-1)
    return ClassCounts(hits, confusion.sum(dim=-2)[..., :classes] - hits, confusion.sum(dim=-1) - hits)


def class_ious(confusion: Tensor) -> Tensor:
    """(..., C) intersection over union of every class, float64; NaN if a class is neither annotated nor predicted."""
    hits, false_positives, misses = class_counts(confusion)
    return hits.double() / (hits + false_positives + misses)


def mean_iou(confusion: Tensor, over: Over = 'all') -> float:
    """Mean of the class IoUs, from counts (C, K) of a full data set.

    Args:
        confusion: See :func:`class_counts`.
        over: ``'all'``: all C classes, absent ones count 0 (Hummingbird, Leopart, NeCo: denominators of
            at least 1e-8). ``'seen'``: those annotated or predicted (CAPI, by scikit-learn's macro Jaccard; DINOv3 and
            mmseg, which drop NaN). ``'annotated'``: those annotated.

    Raises:
        ValueError: No pixel is annotated, or another value of ``over``.
    """
    if over not in ('all', 'seen', 'annotated'):
        raise ValueError(f"over={over!r}: must be 'all', 'seen' or 'annotated'")
    annotated = confusion.sum(dim=-1) > 0
    if not annotated.any():
        raise ValueError('no pixel is annotated with a class: mean IoU is undefined')
    ious = class_ious(confusion)
    if over == 'all':
        return ious.nan_to_num(0.0).mean().item()
    return ious[annotated if over == 'annotated' else ~ious.isnan()].mean().item()


def mean_iou_of_images(confusions: Tensor, over: Over = 'seen') -> MeanOverImages:
    """Mean over images (N, C, K) of each one's mean IoU; images without an annotated pixel are excluded and counted.

    Raises:
        ValueError: No image has an annotated pixel.
    """
    usable = confusions.flatten(1).sum(dim=1) > 0
    if not usable.any():
        raise ValueError('no pixel is annotated with a class: mean IoU is undefined')
    values = [mean_iou(confusion, over) for confusion in confusions[usable]]
    return MeanOverImages(sum(values) / len(values), int((~usable).sum()))


def pixel_accuracy(confusion: Tensor) -> float:
    """Fraction of annotated pixels with the correct class, from counts (C, K).

    Raises:
        ValueError: No pixel is annotated.
    """
    total = int(confusion.sum())
    if not total:
        raise ValueError('no pixel is annotated with a class: accuracy is undefined')
    return int(class_counts(confusion).hits.sum()) / total
