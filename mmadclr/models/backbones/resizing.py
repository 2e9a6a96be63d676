"""Resizes position embeddings between grids of patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor

DINO_OFFSET = 0.1
# Rules by name: offset added to the new size before dividing by the old one, and whether downsampling is antialiased.
RULES = {
    'dino': (DINO_OFFSET, False),
    'dino_antialias': (DINO_OFFSET, True),
    'size': (0.0, True),
    'size_aliased': (0.0, False),
}


def resize_by_rule(
    pos_embed: Tensor, stored: tuple[int, int], grid: tuple[int, int], num_prefix: int = 1, rule: str = 'dino'
) -> Tensor:
    """Resizes a position embedding (1, num_prefix + h*w, D) from a ``stored`` grid (h, w) to ``grid``, by ``rule``."""
    if rule == 'size':
        return resample_abs_pos_embed(pos_embed, grid, stored, num_prefix)
    return resize_positions(pos_embed, stored, grid, num_prefix, *RULES[rule])


def resize_positions(
    pos_embed: Tensor,
    stored: tuple[int, int],
    grid: tuple[int, int],
    num_prefix: int = 1,
    offset: float = DINO_OFFSET,
    antialias: bool = False,
) -> Tensor:
    """Resizes a position embedding (1, num_prefix + h*w, D) from a ``stored`` grid (h, w) to another ``grid``, as DINO does.

    Bicubic with scale factors. facebookresearch/dino, ``vision_transformer.py: interpolate_pos_encoding`` adds 0.1 to the
    new size to avoid rounding errors, which slightly shifts the sampling points. facebookresearch/dinov2,
    ``models/vision_transformer.py`` has both as arguments: without ``offset``, sizes are used instead of factors.
    """
    prefix, positions = pos_embed[:, :num_prefix], pos_embed[:, num_prefix:]
    scale = tuple((new + offset) / old for new, old in zip(grid, stored, strict=True))
    target = dict(scale_factor=scale) if offset else dict(size=grid)
    positions = positions.unflatten(1, stored).permute(0, 3, 1, 2)
    positions = F.interpolate(positions, **target, mode='bicubic', antialias=antialias)
    return torch.cat((prefix, positions.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
