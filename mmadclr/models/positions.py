"""Sine-cosine position codes, and positions of crops in views.

Shape legend: B images, V views, Q crops of m x m patches, D channels; positions are pairs (x, y) in patches of a view.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_code(places: Tensor, dim: int) -> Tensor:
    """Positions (..., 2) -> codes (..., dim): half of the channels for x, half for y, each sines, then cosines.

    As in MAE (facebookresearch/mae, ``util/pos_embed.py``), but also for positions between patches.

    Raises:
        ValueError: ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f'sine-cosine positions: the number of channels {dim} must be a multiple of 4')
    exponents = torch.arange(dim // 4, dtype=torch.float64, device=places.device) / (dim // 4)
    angles = places.double().unsqueeze(-1) * 10000**-exponents  # (..., 2, dim / 4)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(-2).to(places.dtype)


def grid_places(height: int, width: int) -> Tensor:
    """(height * width, 2): positions of a view's own patches, in raster order."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    return torch.stack((columns, rows), dim=-1).flatten(0, 1).float()


def boxes_in_views(boxes: Tensor, views: Tensor, mirrored: Tensor) -> Tensor:
    """Positions of crops in views, as fractions of their width and height.

    Args:
        boxes: (B, Q, 4) left, top, right, bottom of the crops, in pixels of the image.
        views: (B, V, 4), the same of the views.
        mirrored: (B, V, 1 or Q, 2): whether view and crop are flipped horizontally.

    Returns:
        (B, V, Q, 4): x and y of the outer edges of the crop's first column and row, then of its last. If exactly one of crop
        and view is flipped, they run in opposite directions: the first x is larger than the last.
    """
    boxes, views = boxes.unsqueeze(1).float(), views.unsqueeze(2).float()
    corner, size = views[..., :2], views[..., 2:] - views[..., :2]
    first_x, first_y = ((boxes[..., :2] - corner) / size).unbind(-1)
    last_x, last_y = ((boxes[..., 2:] - corner) / size).unbind(-1)
    view, crop = mirrored.bool().expand(*first_x.shape, 2).unbind(-1)
    first_x, last_x = torch.where(view, 1 - first_x, first_x), torch.where(view, 1 - last_x, last_x)
    first_x, last_x = torch.where(crop, last_x, first_x), torch.where(crop, first_x, last_x)
    return torch.stack((first_x, first_y, last_x, last_y), dim=-1)


def patch_places(boxes: Tensor, per_side: int, grid: tuple[int, int]) -> Tensor:
    """Upper left corners of a crop's patches in patches of the view.

    Sherrylone/PQCL measures corners, so a crop patch that coincides with a patch of the view has its position.

    Args:
        boxes: (..., 4) of ``boxes_in_views``.
        per_side: m.
        grid: (h, w) patches of the view.

    Returns:
        (..., m * m, 2), in raster order of the crop.
    """
    first, last = boxes[..., :2], boxes[..., 2:]  # (x, y) each
    steps = torch.arange(per_side + 1, device=boxes.device, dtype=boxes.dtype) / per_side
    edges = first.unsqueeze(-1) + (last - first).unsqueeze(-1) * steps
    corners = torch.minimum(edges[..., :-1], edges[..., 1:])  # (..., 2, m)
    x, y = corners[..., 0, None, :] * grid[1], corners[..., 1, :, None] * grid[0]
    return torch.stack(torch.broadcast_tensors(x, y), dim=-1).flatten(-3, -2)
