"""Clustering of all patches of a set: K = C clusters matched one to one, or overclustering with many-to-one matching.

Protocol of Leopart and NeCo (``experiments/overcluster/eval_overcluster.py`` and ``experiments/utils.py`` of vpariza/NeCo):
standardized patches, PCA to 50 channels, k-means with five seeds, cluster maps of 100 x 100.

Shape legend: N images, P patches of an image (h x w), D channels, n = N P patches, C classes, K clusters.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmadclr.evaluation.dense.hummingbird import check_images
from mmadclr.evaluation.dense.kmeans import POINTS_PER_CENTER, REDOS, STEPS, kmeans, nearest_centers
from mmadclr.evaluation.dense.matching import How, match_clusters, matched_counts
from mmadclr.evaluation.dense.patch_sets import ROWS, standardization
from mmadclr.evaluation.dense.segmentation_scores import VOID, PixelCounts, check_masks, count_pixels, mean_iou

SEEDS = (0, 1, 2, 3, 4)
CHANNELS = 50
MAP_SIDE = 100


class ClusteringResult(NamedTuple):
    """``metrics``: percent, mean over seeds. ``mious``: fractions, by seed. ``mappings``: (seeds, K) class of each cluster,
    -1 if unmatched. ``counts``: per image, with clusters as columns, by seed.
    """

    metrics: dict[str, float]
    mious: tuple[float, ...]
    mappings: Tensor
    counts: tuple[PixelCounts, ...]


def reduce_patches(features: Tensor, channels: int = CHANNELS) -> Tensor:
    """(n, channels) PCA of standardized patches (n, D), largest variance first; not whitened.

    faiss trains its PCA on at most 1000 D random patches; here all are used, so the result is deterministic.

    Raises:
        ValueError: Fewer channels or patches than requested.
    """
    if not 1 <= channels <= min(features.shape):
        raise ValueError(
            f'PCA to {channels} channels: must be at most the {features.shape[0]} patches and {features.shape[1]} channels'
        )
    center, spread = standardization(features)
    covariance = sum(
        ((part.double() - center) / spread).T @ ((part.double() - center) / spread) for part in features.split(ROWS)
    )
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :channels]
    return torch.cat([((part.double() - center) / spread @ axes).float() for part in features.split(ROWS)])


def resized_nearest(maps: Tensor, side: int = MAP_SIDE) -> Tensor:
    """(N, side, side) integers of maps (N, H, W), by torch's nearest interpolation."""
    return F.interpolate(maps[:, None].float(), size=(side, side), mode='nearest')[:, 0].long()


def score_clusters(
    assignment: Tensor,
    masks: Tensor,
    num_classes: int,
    k: int,
    how: How,
    *,
    side: int = MAP_SIDE,
    ignore: Collection[int] = (VOID,),
    unmatched_as: int | None = 0,
) -> tuple[float, Tensor, PixelCounts]:
    """mIoU over all classes, a fraction, of one clustering; mapping (K,); and counts per image.

    Args:
        assignment: (N, h, w) cluster of every patch.
        masks: (N, H, W) label maps.
        num_classes, k: C and K.
        how: ``'hungarian'``, ``'precision'`` or ``'iou'``.
        side: Of the compared maps.
        ignore: Ignored labels.
        unmatched_as: Class of unmatched clusters: 0 as published; None: their pixels are misses.

    Raises:
        ValueError: See ``count_pixels``.
    """
    check_masks(masks, num_classes, ignore)
    counts = count_pixels(resized_nearest(assignment, side), resized_nearest(masks, side), num_classes, k, ignore)
    confusion = counts.confusion.cpu()
    mapping = match_clusters(confusion, how)
    return mean_iou(matched_counts(confusion, mapping, unmatched_as)), mapping, counts


def evaluate_clustering(
    features: Tensor,
    masks: Tensor,
    grid: tuple[int, int],
    num_classes: int,
    k: int | None = None,
    *,
    seeds: Sequence[int] = SEEDS,
    channels: int | None = CHANNELS,
    how: How | None = None,
    side: int = MAP_SIDE,
    ignore: Collection[int] = (VOID,),
    steps: int = STEPS,
    redos: int = REDOS,
    points_per_center: int = POINTS_PER_CENTER,
) -> ClusteringResult:
    """Mean over seeds of the mIoU of k-means clusters. Metric: ``cluster{K}_mIoU``, or ``overcluster{K}_mIoU`` for K != C.

    Args:
        features: (N, P, D) of the images, both for clustering and scoring.
        masks: (N, H, W).
        grid: h and w.
        num_classes: C.
        k: Number of clusters, C by default; 500 for overclustering.
        seeds: One clustering per seed.
        channels: Of the PCA; None disables it.
        how: By default one-to-one by IoU for K = C, otherwise the class of highest precision.
        side, ignore: See :func:`score_clusters`.
        steps, redos, points_per_center: See ``kmeans.kmeans``.

    Raises:
        ValueError: More clusters than patches, no seeds; see ``reduce_patches`` and ``count_pixels``.
        ImportError: One-to-one matching without scipy.
    """
    check_images(features, masks, grid)
    if not seeds:
        raise ValueError('seeds is empty: there must be at least one')
    k = num_classes if k is None else k
    how = how or ('hungarian' if k == num_classes else 'precision')
    points = features.flatten(0, 1)
    points = (points if channels is None else reduce_patches(points, channels)).double()
    scored = []
    for seed in seeds:
        centers = kmeans(points, k, seed, steps=steps, redos=redos, points_per_center=points_per_center).centers
        assignment = nearest_centers(points, centers)[0].view(len(features), *grid)
        scored.append(score_clusters(assignment, masks.to(points.device), num_classes, k, how, side=side, ignore=ignore))
    mious, mappings, counts = zip(*scored, strict=True)
    name = f'{"" if k == num_classes else "over"}cluster{k}_mIoU'
    return ClusteringResult({name: 100 * sum(mious) / len(mious)}, mious, torch.stack(mappings), counts)
