"""Objects found without labels.

Shape legend: h x w patches of a picture, D channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from mmadclr.evaluation.dense.discovery import tokencut_box

MAX_CELLS = 1024  # the eigenvectors of n x n numbers take seconds from here on


class Found(NamedTuple):
    """``mask``: (h', w') of cells of one or several patches. ``box``: left, top, right, bottom in fractions of the sides."""

    mask: Tensor
    box: tuple[float, float, float, float]


def cells(grid: tuple[int, int], limit: int = MAX_CELLS) -> tuple[int, int]:
    """The finest (h', w') of at most ``limit`` cells that divides the sides by one number, rounded up."""
    factor = max(1, math.ceil(math.sqrt(grid[0] * grid[1] / limit)))
    while math.ceil(grid[0] / factor) * math.ceil(grid[1] / factor) > limit:
        factor += 1
    return math.ceil(grid[0] / factor), math.ceil(grid[1] / factor)


def find_object(keys: Tensor, limit: int = MAX_CELLS) -> Found:
    """The object of a picture by TokenCut, from keys (h, w, D) of the last attention layer.

    Of pictures with more than ``limit`` patches, means of keys over cells of patches are cut, as the cut takes time with the
    third power of their number.

    Raises:
        ValueError: See ``tokencut_box``.
    """
    grid = cells((keys.shape[0], keys.shape[1]), limit)
    pooled = F.adaptive_avg_pool2d(keys.permute(2, 0, 1), grid).permute(1, 2, 0)
    found = tokencut_box(pooled.flatten(0, 1), grid)
    left, top, right, bottom = found.box
    return Found(found.mask, (left / grid[1], top / grid[0], right / grid[1], bottom / grid[0]))
