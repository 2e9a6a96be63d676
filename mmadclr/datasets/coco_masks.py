"""Checks COCO's ``segmentation`` formats: polygons, and run lengths as numbers or compressed text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# A polygon that exceeds the image by more than this fraction of its side belongs to an image of another size.
POLYGON_SLACK = 0.1
WANTED = (
    'masks are loaded or scored: annotate them, or train on boxes only (LoadAnnotations without with_mask, a model without '
    "a mask head, metric='bbox')"
)

Problem = tuple[str, str] | None  # its kind, and the predicate after "annotation 5"


def mask_problem(segmentation: Any, image: Mapping, wanted: bool, poly2mask: bool = True) -> Problem:
    """Problem of a segmentation, if any.

    Args:
        segmentation: Value of the key, None if missing.
        image: Record of the image, with ``width``, ``height`` and ``file_name``.
        wanted: Masks are loaded or scored, so one is required.
        poly2mask: mmdet converts them to bitmaps; otherwise it ignores objects without polygons.
    """
    if segmentation is None or segmentation == [] or segmentation == {}:
        what = 'no segmentation' if segmentation is None else 'an empty segmentation'
        return ('no mask', f'has {what}, but {WANTED}') if wanted else None
    if isinstance(segmentation, Mapping):
        if wanted and not poly2mask:
            return 'no polygon', 'has run lengths, which are ignored with poly2mask=False of LoadAnnotations'
        return _run_length_problem(segmentation, image)
    if isinstance(segmentation, list):
        return _polygon_problem(segmentation, image)
    return 'form', f'has a segmentation of type {type(segmentation).__name__}, which is neither polygons nor run lengths'


def _polygon_problem(polygons: Sequence, image: Mapping) -> Problem:
    if all(isinstance(part, (int, float)) for part in polygons):
        return 'nesting', 'has a segmentation that is a single polygon, not a list of polygons: wrap it in a list'
    highest = np.zeros(2)
    for part in polygons:
        points = _points(part)
        if isinstance(points, str):
            return f'polygon: {points}', f'has a polygon {points}'
        highest = np.maximum(highest, points.max(axis=0))
    width, height = image['width'], image['height']
    if (highest > (1 + POLYGON_SLACK) * np.array([width, height])).any():
        return 'polygon outside', f'has a polygon outside its image of {width}x{height} pixels ({image["file_name"]})'
    return None


def _points(polygon: Any) -> np.ndarray | str:
    """Points (N, 2), or a description of what is wrong with them."""
    try:
        points = np.asarray(polygon)
    except (ValueError, OverflowError):  # lists of different lengths, numbers beyond 64 bits
        return 'that is not a flat list of numbers'
    if points.ndim == 2:
        return 'with nested points: write x1, y1, x2, y2, ... in one flat list'
    if points.ndim != 1 or (points.size and points.dtype.kind not in 'iuf'):
        return 'that is not a flat list of numbers'
    if points.size < 6:
        return 'with fewer than 6 numbers, which mmdet ignores and pycocotools may read as a box'
    if points.size % 2:
        return 'with an odd number of coordinates'
    if not np.isfinite(points).all():
        return 'with a coordinate that is not finite'
    return points.reshape(-1, 2)


def polygon_corners(segmentation: Any) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 of the polygons; None if there are none, or malformed ones."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    parts = [points for points in map(_points, segmentation) if not isinstance(points, str)]
    if len(parts) < len(segmentation):
        return None
    left, top = (float(min(np.min(points[:, axis]) for points in parts)) for axis in (0, 1))
    right, bottom = (float(max(np.max(points[:, axis]) for points in parts)) for axis in (0, 1))
    return left, top, right, bottom


def _run_length_problem(segmentation: Mapping, image: Mapping) -> Problem:
    size, counts = segmentation.get('size'), segmentation.get('counts')
    if size is None or counts is None:
        return 'run lengths: keys', 'has run lengths without size or counts'
    height, width = image['height'], image['width']
    if not isinstance(size, list) or len(size) != 2:
        return 'run lengths: size', 'has run lengths whose size is not [height, width]'
    if size != [height, width]:
        return (
            'run lengths: another size',
            f'has a mask of {size[1]}x{size[0]} pixels, but its image {image["file_name"]} has {width}x{height}',
        )
    runs = _runs(counts)
    if runs is None:
        return 'run lengths: counts', 'has run lengths that are neither a list of integers nor compressed text'
    if (runs < 0).any() or runs.sum() != height * width:
        return 'run lengths: sum', f'has run lengths of {runs.sum()} pixels in total, but its image has {height * width}'
    if not runs[1::2].any():
        return 'run lengths: no pixel', 'has an empty mask'
    return None


def _runs(counts: Any) -> np.ndarray | None:
    """Lengths of alternating runs of zeros and ones, int64; None for other formats."""
    if isinstance(counts, str):
        return decompress(counts)
    try:
        runs = np.asarray(counts)
    except (ValueError, OverflowError):
        return None
    return runs.astype(np.int64) if isinstance(counts, list) and runs.ndim == 1 and runs.dtype.kind in 'iu' else None


def decompress(text: str) -> np.ndarray | None:
    """Run lengths from pycocotools' compressed text, int64; None if invalid.

    Five bits per character, the sixth is a continuation bit; from the fourth number on, values are differences from the
    number two before (``rleFrString`` in ``common/maskApi.c`` of cocodataset/cocoapi, which has no checks).
    """
    codes = np.frombuffer(text.encode('utf-8', 'surrogatepass'), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 12:  # beyond 60 bits
        return None
    places = np.arange(codes.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * places), starts)
    negative = codes[ends] & 16 != 0
    numbers = numbers - (negative.astype(np.int64) << (5 * lengths))
    if numbers.size > 2:
        numbers[1::2] = np.cumsum(numbers[1::2])
        numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
