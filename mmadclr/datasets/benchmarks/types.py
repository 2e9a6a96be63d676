"""What the readers of dense benchmarks return: lists of files, and functions that read one file at a time.

Shape legend: H x W pixels, K keypoints, n boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

VOID = 255


class LabeledImage(NamedTuple):
    """Paths of an image and of its label map. ``name``: unique within its split."""

    name: str
    image: str
    mask: str


class SegmentationBenchmark(NamedTuple):
    """Images with label maps.

    ``classes``: names of the labels 0 to C - 1. ``read_labels``: (H, W) uint8 of one item, 0 to C - 1, 255 where ignored;
    raises ``ValueError`` that names the file and the value. ``background``: label of pixels of no object, None if every
    class is one of its own.
    """

    name: str
    classes: tuple[str, ...]
    train: Sequence[LabeledImage]
    val: Sequence[LabeledImage]
    read_labels: Callable[[LabeledImage], np.ndarray]
    background: int | None


class Video(NamedTuple):
    """``frames``: paths, in temporal order. ``annotations``: one for each frame, palette indices."""

    name: str
    frames: tuple[str, ...]
    annotations: tuple[str, ...]


class VideoBenchmark(NamedTuple):
    """``read_objects``: (H, W) uint8 of an annotation; 0 is background, objects are 1, 2, ..., 255 where ignored."""

    name: str
    videos: Sequence[Video]
    read_objects: Callable[[str], np.ndarray]


class PointPair(NamedTuple):
    """Two images of a category with their common keypoints.

    ``source``, ``target``: paths. ``source_points``, ``target_points``: (K, 2) float32 x, y in pixels of the stored images;
    only points visible in both, in the same order, possibly none. ``source_box``, ``target_box``: (4,) float32 left, top,
    right, bottom. ``viewpoint``: difference of viewpoints, 0 (none) to 2. ``source_size``, ``target_size``: width and
    height of the images. ``point_ids``: (K,) which points of the category they are.
    """

    name: str
    category: str
    source: str
    target: str
    source_points: Tensor
    target_points: Tensor
    source_box: Tensor
    target_box: Tensor
    viewpoint: int
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    point_ids: tuple[str, ...]


class PairBenchmark(NamedTuple):
    """``pairs`` are read when indexed. ``categories``: those that occur, sorted."""

    name: str
    categories: tuple[str, ...]
    pairs: Sequence[PointPair]


class BoxedImage(NamedTuple):
    """``boxes``: (n, 4) int64 left, top, right, bottom in pixels, right and bottom exclusive; possibly none.
    ``difficult``, ``truncated``: (n,) bool.
    """

    name: str
    image: str
    boxes: Tensor
    difficult: Tensor
    truncated: Tensor


class BoxBenchmark(NamedTuple):
    """``images`` are read when indexed."""

    name: str
    images: Sequence[BoxedImage]


Benchmark = SegmentationBenchmark | VideoBenchmark | PairBenchmark | BoxBenchmark
