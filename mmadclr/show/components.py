"""Principal components of patches as colors.

Shape legend: n rows (patches of all pictures), D channels, k components, h x w patches of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 65_536  # rows converted to double precision at a time
RANGE = (0.01, 0.99)  # quantiles of a component that become dark and bright


class Components(NamedTuple):
    """``mean`` (D,), orthonormal ``axes`` (k, D) by descending ``variances`` (k,)."""

    mean: Tensor
    axes: Tensor
    variances: Tensor

    def scores(self, rows: Tensor) -> Tensor:
        """(n, D) -> (n, k)."""
        return (rows.double() - self.mean) @ self.axes.T


def principal_components(rows: Tensor, k: int) -> Components:
    """The first ``k`` principal components of rows (n, D), in double precision.

    The sign is that which makes the entry of an axis with the largest absolute value positive.

    Raises:
        ValueError: Rows have fewer than k dimensions, or do not vary.
    """
    parts = rows.split(BLOCK)
    mean = sum((part.double().sum(dim=0) for part in parts), torch.zeros(rows.shape[1]).double()) / len(rows)
    centered = (part.double() - mean for part in parts)
    scatter = sum((part.T @ part for part in centered), mean.new_zeros(len(mean), len(mean)))
    variances, vectors = torch.linalg.eigh(scatter / len(rows))
    if k > min(len(rows) - 1, rows.shape[1]) or variances[-1] <= 1e-12 * mean.square().sum():
        raise ValueError(f'number of patches {len(rows)}: they do not vary in {k} directions; raise the size, or add images')
    axes = vectors.T.flip(0)[:k]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return Components(mean, axes * largest.sign(), variances.flip(0)[:k])


def best_split(values: Tensor) -> float:
    """The threshold of (n,) values, midway between two of them, with the largest variance between both sides (Otsu)."""
    ordered = values.double().sort().values
    count, total = torch.arange(1, len(ordered)).double(), ordered.sum()
    below = ordered.cumsum(0)[:-1]
    rest = len(ordered) - count
    between = count * rest * (below / count - (total - below) / rest).square()
    between[ordered[1:] == ordered[:-1]] = -1  # equal values stay on one side
    place = int(between.argmax())
    return float((ordered[place] + ordered[place + 1]) / 2)


def on_border(grid: tuple[int, int]) -> Tensor:
    """(h, w): whether a patch is at the border of its picture."""
    border = torch.ones(grid, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return border


def foreground(grids: Sequence[Tensor]) -> list[Tensor]:
    """(h, w) masks of the patches (h, w, D) of pictures, from the first component of the patches of all of them.

    As in DINOv2 (arXiv 2304.07193, section 7.5), the first component is thresholded. There threshold and sign were chosen
    by eye; here the threshold is Otsu's, and the foreground is the side with the smaller share of patches at borders.

    Raises:
        ValueError: See ``principal_components``.
    """
    rows = torch.cat([grid.flatten(0, 1) for grid in grids])
    first = principal_components(rows, 1).scores(rows)[:, 0]
    above = first > best_split(first)
    border = torch.cat([on_border((grid.shape[0], grid.shape[1])).flatten() for grid in grids]).double()
    front = above if border[above].mean() <= border[~above].mean() else ~above
    sizes = [grid.shape[0] * grid.shape[1] for grid in grids]
    return [part.view(grid.shape[:2]) for part, grid in zip(front.split(sizes), grids, strict=True)]


def patch_colors(grids: Sequence[Tensor]) -> list[Tensor]:
    """(h, w, 3) in [0, 1] for the patches (h, w, D) of pictures, NaN in the background; equal features, equal colors.

    Red, green and blue are the first three components of the foreground of all pictures, each from its 1st to its 99th
    percentile.

    Raises:
        ValueError: See ``principal_components``.
    """
    masks = foreground(grids)
    rows = torch.cat([grid[mask] for grid, mask in zip(grids, masks, strict=True)])
    components = principal_components(rows, 3)
    scores = components.scores(rows)
    low, high = (quantiles(scores, share) for share in RANGE)
    return [_colored(grid, mask, components, low, high) for grid, mask in zip(grids, masks, strict=True)]


def quantiles(scores: Tensor, share: float) -> Tensor:
    """(k,) of scores (n, k), for any n, unlike ``torch.quantile``."""
    ordered = scores.sort(dim=0).values
    return ordered[round(share * (len(ordered) - 1))]


def _colored(grid: Tensor, mask: Tensor, components: Components, low: Tensor, high: Tensor) -> Tensor:
    colors = torch.full((*mask.shape, 3), torch.nan, dtype=torch.float64)
    colors[mask] = ((components.scores(grid[mask]) - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return colors
