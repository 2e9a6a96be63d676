"""Semantic correspondence: each key point goes to the target patch that is most like the source there. SPair-71k.

Two ways to count are in use, and papers print both as PCK@0.1: over the points of a category (mbanani/probe3d,
``evaluate_spair_correspondence.py``), and over the points of a pair (juhongm999/hpf, ``evaluation.py``, of the data set's
authors).

Shape legend: K key points, D channels, h x w patches. Positions are x, y in shares of the sides of the square image.
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
    """``errors``: (n,) of the points seen in both images, in units of ``scale``; ``points``: (n,) which ones. ``category``:
    of both."""

    errors: Tensor
    points: Tensor
    category: int | str


class SpairResult(NamedTuple):
    """``metrics``: percent. ``categories``: share of right points, by category. ``pairs``: share of each pair, None without
    points. ``left_out``: number of pairs without a common point, which count in nothing."""

    metrics: dict[str, float]
    categories: dict[int | str, float]
    pairs: list[float | None]
    left_out: int


def scaled_points(points: Tensor, scale: float, truncate: bool = True) -> Tensor:
    """(K, 2) pixels after an image was resized by a factor; probe3d keeps them in integers, so they are truncated."""
    scaled = points.double() * scale
    return scaled.trunc() if truncate else scaled


def match_points(
    source: Tensor,
    target: Tensor,
    points: Tensor,
    cell: Literal['corner', 'center'] = 'corner',
    align_corners: bool = True,
) -> Matches:
    """Where key points of one image are in another.

    Args:
        source, target: (D, h, w) patch features; norms do not matter.
        points: (K, 2) in the source.
        cell: Which point of the best patch is its position. probe3d takes the upper left corner, which is half a patch off.
        align_corners: Of the interpolation of source features; True in probe3d, which is half a patch off at the border.

    Raises:
        ValueError: Other widths, features that are not finite, points outside the image.
    """
    if cell not in ('corner', 'center'):
        raise ValueError(f"cell={cell!r}: must be 'corner' or 'center'")
    if source.ndim != 3 or target.ndim != 3 or len(source) != len(target):
        raise ValueError(f'features {tuple(source.shape)} and {tuple(target.shape)} must be (D, h, w) with the same D')
    if not source.isfinite().all() or not target.isfinite().all():
        raise ValueError('features hold values that are not finite')
    if ((points < 0) | (points > 1) | points.isnan()).any():
        raise ValueError('key points must be shares of the sides of the image, 0 to 1')
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
        positions, target_points: In shares of the side of the square image.
        visible: (K,) whether a point is seen in both images.
        scale: Larger side of the target's box, as a share of the side of the image.
        category: Of the pair.

    Raises:
        ValueError: A scale that is not above 0.
    """
    if not scale > 0:
        raise ValueError(f'scale={scale}: the larger side of the box must be above 0')
    distances = (positions - target_points.to(positions)).norm(dim=1) / scale
    visible = visible.bool()
    return PairErrors(distances[visible], visible.nonzero().flatten(), category)


def summarize_pairs(pairs: Sequence[PairErrors], alpha: float = ALPHA) -> SpairResult:
    """PCK in both ways of counting.

    ``spair_pck{alpha}_per_point``: share of all points of a category whose error is *below* alpha, mean over categories
    (probe3d). ``spair_pck{alpha}_per_pair``: share of the points of a pair whose error is *at most* alpha, mean over pairs
    (HPF).

    Raises:
        ValueError: No pair has a common point.
    """
    shares = [(pair.errors <= alpha).double().mean().item() if len(pair.errors) else None for pair in pairs]
    usable = [share for share in shares if share is not None]
    if not usable:
        raise ValueError(f'none of {len(pairs)} pairs has a key point that is seen in both images')
    categories = {}
    for category in sorted({pair.category for pair in pairs if len(pair.errors)}):
        errors = torch.cat([pair.errors for pair in pairs if pair.category == category])
        categories[category] = (errors < alpha).double().mean().item()
    metrics = {
        f'spair_pck{alpha:g}_per_point': 100 * sum(categories.values()) / len(categories),
        f'spair_pck{alpha:g}_per_pair': 100 * sum(usable) / len(usable),
    }
    return SpairResult(metrics, categories, shares, len(shares) - len(usable))
