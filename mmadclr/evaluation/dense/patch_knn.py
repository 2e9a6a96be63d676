"""Segmentation by k-NN over patches: the nearest training patches vote on every pixel of a patch.

CAPI's protocol (``KNNClassifier`` in ``eval_segmentation.py`` of facebookresearch/capi) with exact distances. Its default
config computes them in bfloat16, where many are tied in a device-dependent order; that is not reproducible.

Shape legend: n training patches, q query patches, k neighbors, J pixels of a patch, D channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mmadclr.evaluation.dense.patch_sets import Patches, PatchResult, PatchSplit, choose_and_test, most_frequent
from mmadclr.evaluation.dense.search import Metric, nearest_patches

NEIGHBORS = (1, 3, 10, 30)
METRICS: tuple[Metric, ...] = ('cosine', 'L2')
VOTES = 2**24


def vote_pixels(neighbor_labels: Tensor) -> Tensor:
    """(q, J) most frequent label of every pixel among the neighbors' (q, k, J); ties go to the smallest label."""
    pixels = neighbor_labels.transpose(1, 2)
    return most_frequent(pixels.flatten(0, 1)).unflatten(0, (len(pixels), -1))


def knn_labels(train: Patches, queries: Tensor, settings: Sequence[tuple[int, Metric]]) -> Iterator[Tensor]:
    """(q, J) labels of query patches (q, D) for each pair of k and distance; each distance is searched once.

    Raises:
        ValueError: More neighbors than patches; see ``nearest_patches``.
    """
    searched: dict[Metric, Tensor] = {}
    for k, metric in settings:
        if metric not in searched:
            most = max(number for number, other in settings if other == metric)
            searched[metric] = nearest_patches(train.features, queries, most, metric)[1]
        rows = searched[metric][:, :k].to(train.labels.device)
        step = max(1, VOTES // (k * train.labels.shape[1]))
        yield torch.cat([vote_pixels(train.labels[some]) for some in rows.split(step)])


def evaluate_patch_knn(split: PatchSplit, ks: Iterable[int] = NEIGHBORS, metrics: Iterable[Metric] = METRICS) -> PatchResult:
    """mIoU over seen classes and pixel accuracy of k-NN; k and distance are chosen on the holdout images.

    Neighbors may assign an ignored label to a pixel, which is an error and counts as a class.

    Args:
        split: See ``patch_sets.split_patches``.
        ks, metrics: All pairs are tried, k outermost.

    Raises:
        ValueError: Fewer patches than neighbors; see ``patch_sets.choose_and_test``.
    """
    pairs = itertools.product(ks, tuple(metrics))
    return choose_and_test('patch_knn', split, pairs, knn_labels, lambda pair: {'k': pair[0], 'distance': pair[1]})
