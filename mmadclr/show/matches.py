"""Nearest pictures and patches, and matches between two pictures.

Shape legend: N pictures, D channels, P and R patches of two pictures (h x w), m matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmadclr.evaluation.dense.search import nearest_patches


class Matches(NamedTuple):
    """``left`` and ``right`` (m,): patches of both pictures in raster order; ``cosines`` (m,), descending."""

    left: Tensor
    right: Tensor
    cosines: Tensor

    def take(self, kept: Sequence[int]) -> Matches:
        """Some of them."""
        return Matches(*(part[list(kept)] for part in self))


class Place(NamedTuple):
    """A patch of a picture."""

    picture: int
    row: int
    column: int
    cosine: float


def nearest_images(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines (N, k) with the k nearest other pictures, nearest first, and their numbers (N, k).

    Args:
        features: (N, D), one for each picture.
        k: At most N - 1.
    """
    directions = F.normalize(features.double(), dim=1)
    cosines = (directions @ directions.T).fill_diagonal_(-torch.inf)
    values, order = cosines.sort(dim=1, descending=True, stable=True)
    return values[:, :k], order[:, :k]


def nearest_elsewhere(grids: Sequence[Tensor], picture: int, patches: Sequence[int], k: int) -> list[list[Place]]:
    """For some patches of a picture, the nearest patch in each other picture, the k nearest of these, nearest first.

    Args:
        grids: (h, w, D) of each picture.
        picture: Number of the picture.
        patches: Numbers of its patches, in raster order.
        k: How many; fewer if there are fewer other pictures.

    Raises:
        ValueError: See ``nearest_patches``.
    """
    queries = grids[picture].flatten(0, 1)[list(patches)]
    found = [_best_of(grid, queries, number) for number, grid in enumerate(grids) if number != picture]
    of_patch = zip(*found, strict=True)
    return [sorted(places, key=lambda place: -place.cosine)[:k] for places in of_patch]


def _best_of(grid: Tensor, queries: Tensor, number: int) -> list[Place]:
    cosines, rows = nearest_patches(grid.flatten(0, 1), queries, 1)
    pairs = zip(cosines[:, 0].tolist(), rows[:, 0].tolist(), strict=True)
    return [Place(number, row // grid.shape[1], row % grid.shape[1], cosine) for cosine, row in pairs]


def mutual_matches(left: Tensor, right: Tensor) -> Matches:
    """Pairs of patches (P, D) and (R, D) that are each other's nearest, by descending cosine.

    Raises:
        ValueError: See ``nearest_patches``.
    """
    cosines, there = (part[:, 0] for part in nearest_patches(right, left, 1))
    back = nearest_patches(left, right, 1)[1][:, 0]
    own = torch.arange(len(left), device=there.device)
    kept = (back[there] == own).nonzero().flatten()
    kept = kept[cosines[kept].argsort(descending=True, stable=True)]
    return Matches(kept, there[kept], cosines[kept])


def spread_matches(matches: Matches, widths: tuple[int, int], limit: int, distance: float) -> Matches:
    """The best matches whose patches are at least ``distance`` patches apart in both pictures, at most ``limit``.

    Args:
        matches: By descending cosine.
        widths: w of both pictures.
        limit, distance: As above.
    """
    points = torch.stack([part for side, w in zip(matches, widths, strict=False) for part in (side // w, side % w)], dim=1)
    kept: list[int] = []
    for number, point in enumerate(points.double()):
        apart = (points[kept].double() - point).view(-1, 2, 2).norm(dim=2)
        if len(kept) < limit and bool((apart >= distance).all()):
            kept.append(number)
    return matches.take(kept)
