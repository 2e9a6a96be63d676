"""Neighbors of patches on a grid of any size.

Shape legend: N = h * w patches, in raster order; E = up to 8 neighbors of each.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

STEPS = [step for step in product((-1, 0, 1), repeat=2) if step != (0, 0)]


class Neighbors(NamedTuple):
    """``numbers`` (N, E): unique neighbors of each patch, ascending; entries where ``absent`` (N, E; None if all patches
    have the same number) are padding.
    """

    numbers: Tensor
    absent: Tensor | None


@lru_cache(maxsize=32)
def neighbors(height: int, width: int, wrap: bool, device: torch.device | str = 'cpu') -> Neighbors:
    """The adjacent patches of each patch of a grid, including diagonal ones, excluding itself.

    Args:
        height, width: Of the grid, in patches.
        wrap: Opposite edges of the grid are adjacent (alinlab/SelfPatch, ``selfpatch_vision_transformer.py``).
        device: Of the result.

    Raises:
        ValueError: A grid of one patch, which has no neighbors.
    """
    if height * width == 1:
        raise ValueError(
            'a grid of 1 x 1 patches has no neighbors: make the views at least two patches wide (global_size and '
            'local_size of MultiCrop), or the patches smaller'
        )
    rows = [_around(row, column, height, width, wrap) for row, column in product(range(height), range(width))]
    most = max(map(len, rows))
    numbers = torch.tensor([row + [-1] * (most - len(row)) for row in rows])
    absent = numbers < 0
    return Neighbors(numbers.clamp(min=0).to(device), absent.to(device) if absent.any() else None)


def _around(row: int, column: int, height: int, width: int, wrap: bool) -> list[int]:
    places = {(row + down, column + right) for down, right in STEPS}
    if wrap:
        places = {(y % height, x % width) for y, x in places} - {(row, column)}
    return sorted(y * width + x for y, x in places if 0 <= y < height and 0 <= x < width)
