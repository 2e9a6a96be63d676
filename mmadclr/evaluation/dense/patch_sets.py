"""Patches with pixel labels, split and standardized as in CAPI; shared by k-NN and logistic regression.

Darcet et al., *Cluster and predict latent patches*, 2025; facebookresearch/capi, ``eval_segmentation.py``.

Shape legend: N images, P patches of an image (h x w), D channels, n patches, J pixels of a patch, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mmadclr.evaluation.dense.hummingbird import check_images, check_sides
from mmadclr.evaluation.dense.search import check_features
from mmadclr.evaluation.dense.segmentation_scores import PixelCounts, count_pixels, is_ignored, mean_iou, pixel_accuracy

ROWS = 2**14  # at a time, in double precision
HOLDOUT_SHARE = 10  # one image in ten
Setting = TypeVar('Setting')


class Patches(NamedTuple):
    """``features``: (n, D). ``labels``: (n, J), per pixel. ``images``: number of images."""

    features: Tensor
    labels: Tensor
    images: int


class PatchSplit(NamedTuple):
    """Standardized patches. ``ignore``: labels that are not classes. ``center``, ``spread``: (D,), float64. ``train``
    and ``holdout`` are parts of the same tensors, which :func:`joined` uses.
    """

    train: Patches
    holdout: Patches
    test: Patches
    ignore: tuple[int, ...]
    center: Tensor
    spread: Tensor


class PatchResult(NamedTuple):
    """``metrics``: percent, by name. ``counts``: per image, by the labels in ``labels``.

    ``choice``: the best settings. ``trials``: settings and mIoU on the holdout images, a fraction, in order.
    ``unlearned``: labels of the test images that do not occur in any training patch.
    """

    metrics: dict[str, float]
    counts: PixelCounts
    labels: tuple[int, ...]
    choice: dict
    trials: tuple[tuple[dict, float], ...]
    unlearned: tuple[int, ...]


def patch_pixels(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, P, J) labels of the pixels of every patch of label maps (N, H, W), in raster order.

    Raises:
        ValueError: Sides that are not multiples of the grid.
    """
    check_sides(masks.shape[1:], grid)
    rows = masks.unflatten(2, (grid[1], -1)).unflatten(1, (grid[0], -1))  # (N, h, rows, w, columns)
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def most_frequent(labels: Tensor) -> Tensor:
    """(n,) most frequent label of each row (n, J); ties go to the smallest, on every device."""
    return torch.cat([_most_frequent(some) for some in labels.split(ROWS)]) if len(labels) else labels[:, 0]


def _most_frequent(labels: Tensor) -> Tensor:
    rising = labels.sort(dim=1).values
    places = torch.arange(rising.shape[1], device=labels.device)
    starts = torch.zeros_like(rising, dtype=torch.int64)
    starts[:, 1:] = torch.where(rising[:, 1:] != rising[:, :-1], places[1:], 0)
    lengths = places - starts.cummax(dim=1).values
    return rising.gather(1, lengths.argmax(dim=1, keepdim=True)).squeeze(1)  # the first of maximal length


def published_permutation(number: int, seed: int = 0) -> Tensor:
    """Order from which the published code draws holdout images, applied to its file system's listing order."""
    return torch.from_numpy(np.random.RandomState(seed).permutation(number))


def split_patches(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    grid: tuple[int, int],
    permutation: Tensor | None = None,
    ignore: Collection[int] = (255,),
) -> PatchSplit:
    """Holds out a tenth of the training images, and standardizes all patches by statistics of the rest.

    Like the published code, keeps this standardization for training on the holdout images as well. Apart from its arguments
    it holds one copy of the features, in single precision.

    Args:
        train, test: Features (N, P, D) and label maps (N, H, W).
        grid: h and w.
        permutation: (N,) order of the training images, of which the first N // 10 are held out; by default that of
            :func:`published_permutation`.
        ignore: 255; 0 and 255 for ADE20K.

    Raises:
        ValueError: Features or masks of different images or grids, different widths, features that are not finite, an
            invalid permutation, or test patches of another size.
    """
    for features, masks in (train, test):
        check_images(features, masks, grid)
        check_features(features.flatten(0, 1), 'feature', directed=False)
    if train[0].shape[2] != test[0].shape[2] or train[1].shape[1:] != test[1].shape[1:]:
        raise ValueError('features and masks of training and test images must have the same width and size')
    number = len(train[0])
    order = published_permutation(number) if permutation is None else permutation.long().cpu()
    if not torch.equal(order.sort().values, torch.arange(number)):
        raise ValueError(f'permutation must contain each of the {number} training images exactly once')
    held = number // HOLDOUT_SHARE
    order = torch.cat((order[held:], order[:held]))
    learned = order[: number - held]
    center, spread = _statistics(lambda: (x for _, x in _rows(train[0], learned)), len(learned) * grid[0] * grid[1])
    sets = [(*train, order), (*test, torch.arange(len(test[0])))]
    both, tested = (
        Patches(
            _standardized(features, images, center, spread),
            patch_pixels(masks[images.to(masks.device)], grid).flatten(0, 1),
            len(images),
        )
        for features, masks, images in sets
    )
    edge = (number - held) * grid[0] * grid[1]
    parts = (
        Patches(both.features[:edge], both.labels[:edge], number - held),
        Patches(both.features[edge:], both.labels[edge:], held),
    )
    return PatchSplit(*parts, tested, tuple(sorted(ignore)), center, spread)


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of channels (D,), over all patches (n, D), in double precision.

    The population standard deviation; 1 for constant channels, as in scikit-learn's ``StandardScaler``.
    """
    return _statistics(lambda: features.split(ROWS), len(features))


def _statistics(parts: Callable[[], Iterable[Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """See :func:`standardization`; ``parts``: all patches, some at a time."""
    center = torch.stack([part.double().sum(dim=0) for part in parts()]).sum(dim=0) / count
    variance = torch.stack([(part.double() - center).square().sum(dim=0) for part in parts()]).sum(dim=0) / count
    constant = variance <= torch.finfo(torch.float64).eps * count * center.square()
    return center, variance.sqrt().masked_fill(constant | (variance == 0), 1.0)


def _rows(features: Tensor, images: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Patches (n, D) of images in double precision, some at a time, with their places among all of them."""
    patches, start = features.shape[1], 0
    for some in images.split(max(1, ROWS // patches)):
        yield slice(start, start + len(some) * patches), features[some.to(features.device)].flatten(0, 1).double()
        start += len(some) * patches


def _standardized(features: Tensor, images: Tensor, center: Tensor, spread: Tensor) -> Tensor:
    """(n, D) patches of images in single precision; computed in double precision."""
    found = features.new_empty(len(images) * features.shape[1], features.shape[2], dtype=torch.float32)
    for places, part in _rows(features, images):
        found[places] = ((part - center) / spread).float()
    return found


def learnable(patches: Patches, ignore: Collection[int]) -> Patches:
    """Drops patches whose most frequent pixel label is ignored; a copy, unless all are kept.

    Raises:
        ValueError: None is left.
    """
    kept = ~is_ignored(most_frequent(patches.labels), ignore)
    if not kept.any():
        raise ValueError(f'no patch of the training images has a most frequent label other than {sorted(ignore)}')
    return patches if kept.all() else Patches(patches.features[kept], patches.labels[kept], patches.images)


def joined(first: Patches, second: Patches) -> Patches:
    """Concatenation of both, without a copy if the second follows the first in memory."""
    features, labels = (_joined(*pair) for pair in zip(first[:2], second[:2], strict=True))
    return Patches(features, labels, first.images + second.images)


def _joined(first: Tensor, second: Tensor) -> Tensor:
    whole = first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    neighbors = second.storage_offset() == first.storage_offset() + first.numel()
    if whole and neighbors and first.is_contiguous() and second.is_contiguous():
        return first.as_strided((len(first) + len(second), *first.shape[1:]), first.stride())
    return torch.cat((first, second))


def score_labels(prediction: Tensor, patches: Patches, ignore: Collection[int]) -> tuple[PixelCounts, tuple[int, ...]]:
    """Counts by image of predicted (n, J) and annotated labels, and the labels.

    Ignored labels predicted on annotated pixels are errors, and separate classes, as in the published code.
    """
    labels = torch.cat((patches.labels.unique(), prediction.unique().to(patches.labels))).unique()
    predicted, annotated = (
        torch.searchsorted(labels, part.to(labels).contiguous()).unflatten(0, (patches.images, -1))
        for part in (prediction, patches.labels)
    )
    left_out = torch.searchsorted(labels, torch.tensor([x for x in ignore if x in labels]).to(labels)).tolist()
    return count_pixels(predicted, annotated, len(labels), ignore=left_out), tuple(labels.tolist())


def choose_and_test(
    name: str,
    split: PatchSplit,
    settings: Iterable[Setting],
    predict: Callable[[Patches, Tensor, list[Setting]], Iterable[Tensor]],
    describe: Callable[[Setting], dict],
) -> PatchResult:
    """Selects the settings with the highest mIoU on the holdout images (ties go to the first), and trains with them on both
    parts.

    Args:
        name: Prefix of the metrics.
        split: See :func:`split_patches`.
        settings: To try, in order.
        predict: From patches, query features (q, D) and settings to labels (q, J), one per setting.
        describe: Converts settings to a dict.

    Raises:
        ValueError: Several settings, but no holdout image to choose one.
    """
    settings = list(settings)
    trials = []
    if len(settings) > 1:
        if not split.holdout.images:
            raise ValueError(
                f'fewer than {HOLDOUT_SHARE} training images: none is held out to choose settings; pass only one'
            )
        predictions = predict(learnable(split.train, split.ignore), split.holdout.features, settings)
        trials = [mean_iou(score_labels(each, split.holdout, split.ignore)[0].confusion, 'seen') for each in predictions]
    best = settings[max(range(len(trials)), key=trials.__getitem__) if trials else 0]
    learned = learnable(joined(split.train, split.holdout), split.ignore)
    (prediction,) = predict(learned, split.test.features, [best])
    counts, labels = score_labels(prediction, split.test, split.ignore)
    metrics = {
        f'{name}_mIoU': 100 * mean_iou(counts.confusion, 'seen'),
        f'{name}_accuracy': 100 * pixel_accuracy(counts.confusion),
    }
    unlearned = set(split.test.labels.unique().tolist()) - set(learned.labels.unique().tolist()) - set(split.ignore)
    tried = tuple((describe(setting), score) for setting, score in zip(settings, trials, strict=False))
    return PatchResult(metrics, counts, labels, describe(best), tried, tuple(sorted(unlearned)))
