"""Semantic correspondence on SPair-71k: each keypoint is matched to the most similar target patch.

Two averages are in use, both published as PCK@0.1: over the points of a category (mbanani/probe3d,
``evaluate_spair_correspondence.py``), and over the points of a pair (juhongm999/hpf, ``evaluation.py``, by the data set's
authors).

Shape legend: K keypoints, D channels, h x w patches. Positions are x, y as fractions of the sides of the square image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA = 0.1


class Matches(NamedTuple):
    """``positions``: (K, 2) in the target. ``cells``: (K, 2) column and row. ``heatmaps``: (K, h, w) similarities."""

    positions: Tensor
    cells: Tensor
    heatmaps: Tensor


class PairErrors(NamedTuple):
    """``errors``: (n,) of the points visible in both images, in units of ``scale``; ``points``: (n,) their indices.
    ``category``: of both.
    """

    errors: Tensor
    points: Tensor
    category: int | str


class SpairResult(NamedTuple):
    """``metrics``: percent. ``categories``: fraction of correct points, by category. ``pairs``: fraction per pair, None
    without points. ``left_out``: number of excluded pairs without a common point.
    """

    metrics: dict[str, float]
    categories: dict[int | str, float]
    pairs: list[float | None]
    left_out: int


def scaled_points(points: Tensor, scale: float, truncate: bool = True) -> Tensor:
    """(K, 2) pixels after resizing an image by a factor; truncated to integers as in probe3d."""
    scaled = points.double() * scale
    return scaled.trunc() if truncate else scaled


def match_points(
    source: Tensor,
    target: Tensor,
    points: Tensor,
    cell: Literal['corner', 'center'] = 'corner',
    align_corners: bool = True,
) -> Matches:
    """Positions in the target image that match keypoints of the source image.

    Args:
        source, target: (D, h, w) patch features; norms are irrelevant.
        points: (K, 2) in the source.
        cell: Position within the best patch. probe3d uses the upper left corner, which is off by half a patch.
        align_corners: Of the interpolation of source features; True in probe3d, which is off by half a patch at the border.

    Raises:
        ValueError: Different widths, features that are not finite, points outside the image.
    """
    if cell not in ('corner', 'center'):
        raise ValueError(f"cell={cell!r}: must be 'corner' or 'center'")
    if source.ndim != 3 or target.ndim != 3 or len(source) != len(target):
        raise ValueError(f'features {tuple(source.shape)} and {tuple(target.shape)} must be (D, h, w) with the same D')
    if not source.isfinite().all() or not target.isfinite().all():
        raise ValueError('features contain values that are not finite')
    if ((points < 0) | (points > 1) | points.isnan()).any():
        raise ValueError('keypoints must be fractions of the image sides, 0 to 1')
    source, target = (F.normalize(x.float(), dim=0) for x in (source, target))
    places = (2 * points.to(source) - 1)[None, None]
    sampled = F.grid_sample(source[None], places, mode='bilinear', align_corners=align_corners)[0, :, 0]
    heatmaps = torch.einsum('dk,dhw->khw', sampled, target)
    height, width = target.shape[1:]
    best = heatmaps.flatten(1).argmax(dim=1)
    cells = torch.stack((best % width, best // width), dim=1)
    shift = 0.5 if cell == 'center' else 0.0
    return Matches((cells + shift) / torch.tensor([width, height], device=cells.device), cells, heatmaps)


def pair_errors(positions: Tensor, target_points: Tensor, visible: Tensor, scale: float, category: int | str) -> PairErrors:
    """Distances of matches (K, 2) from the annotated points (K, 2), in units of the object's size.

    Args:
        positions, target_points: As fractions of the side of the square image.
        visible: (K,) whether a point is visible in both images.
        scale: Larger side of the target's box, as a fraction of the image side.
        category: Of the pair.

    Raises:
        ValueError: ``scale`` is not above 0.
    """
    if not scale > 0:
        raise ValueError(f'scale={scale}: the larger side of the box must be above 0')
    distances = (positions - target_points.to(positions)).norm(dim=1) / scale
    visible = visible.bool()
    return PairErrors(distances[visible], visible.nonzero().flatten(), category)


def summarize_pairs(pairs: Sequence[PairErrors], alpha: float = ALPHA) -> SpairResult:
    """PCK with both averages.

    ``spair_pck{alpha}_per_point``: fraction of all points of a category whose error is *below* alpha, mean over categories
    (probe3d). ``spair_pck{alpha}_per_pair``: fraction of the points of a pair whose error is *at most* alpha, mean over
    pairs (HPF).

    Raises:
        ValueError: No pair has a common point.
    """
    shares = [(pair.errors <= alpha).double().mean().item() if len(pair.errors) else None for pair in pairs]
    usable = [share for share in shares if share is not None]
    if not usable:
        raise ValueError(f'none of the {len(pairs)} pairs has a keypoint that is visible in both images')
    categories = {}
    for category in sorted({pair.category for pair in pairs if len(pair.errors)}):
        errors = torch.cat([pair.errors for pair in pairs if pair.category == category])
        categories[category] = (errors < alpha).double().mean().item()
    metrics = {
        f'spair_pck{alpha:g}_per_point': 100 * sum(categories.values()) / len(categories),
        f'spair_pck{alpha:g}_per_pair': 100 * sum(usable) / len(usable),
    }
    return SpairResult(metrics, categories, shares, len(shares) - len(usable))
