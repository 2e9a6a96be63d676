"""Crops, and features of images, as one picture of plain pixels, without axes and titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

KINDS = ('global_views', 'local_views', 'query_crops')
COLORS = {'global': 'white', 'local': 'deepskyblue', 'query': 'orange'}  # of boxes
GAP = 2  # pixels between crops
HEIGHT = 112  # of an image with its features


def boxes_sheet(
    images: Sequence[Image.Image], data: Mapping[str, Any], views: Mapping[str, Any], mean: Tensor, std: Tensor
) -> np.ndarray:
    """One row per image: the image with the boxes of its crops (global white, local blue, query orange), then the crops.

    Args:
        images: The B images before cropping.
        data: A collated batch of ``MultiCrop`` samples, with boxes in pixels of the images.
        views, mean, std: See :func:`crops_sheet`.

    Returns:
        (H, W, 3) uint8.
    """
    crops = crops_sheet(views, mean, std, len(images))
    scale = max(1, -(-HEIGHT // (len(crops) // len(images))))  # whole, so that pixels of small crops stay squares
    crops = crops.repeat(scale, axis=0).repeat(scale, axis=1)
    height = len(crops) // len(images)
    whole = [
        _boxed(image, {kind: data[f'{kind}_boxes'][row].tolist() for kind in COLORS}, height)
        for row, image in enumerate(images)
    ]
    width = max(part.shape[1] for part in whole)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in whole]
    return np.concatenate([np.concatenate(padded), crops], axis=1)


def _boxed(image: Image.Image, boxes: Mapping[str, Sequence[Sequence[int]]], height: int) -> np.ndarray:
    """The image with its boxes, (height, w, 3)."""
    scale = (height - GAP) / image.height
    size = max(1, round(scale * image.width)), height - GAP
    drawn = image.convert('RGB').resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(drawn)
    for kind, color in COLORS.items():
        for left, top, right, bottom in boxes[kind]:
            edges = scale * left, scale * top, scale * right - 1, scale * bottom - 1
            if color == 'white':  # seen on white, too
                pen.rectangle((edges[0] + 1, edges[1] + 1, edges[2] - 1, edges[3] - 1), outline='black')
            pen.rectangle(edges, outline=color)
    return np.pad(np.asarray(drawn), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def crops_sheet(views: Mapping[str, Any], mean: Tensor, std: Tensor, num_images: int) -> np.ndarray:
    """One row per image: its global views, local views and query crops, as the model sees them.

    Args:
        views: Of the preprocessor; each kind (B, ..., 3, h, w).
        mean, std: (3, 1, 1), to undo the normalization.
        num_images: At most so many rows.

    Returns:
        (H, W, 3) uint8. Crops smaller than a global view are padded with white to its height.
    """
    groups = [views[kind][:num_images] for kind in KINDS if kind in views and views[kind].numel()]
    side = groups[0].shape[-2]
    columns = [_pixels(group, mean, std, side) for group in groups]
    rows = torch.cat(columns, dim=-1)  # (B, 3, side + GAP, W)
    return torch.cat(list(rows), dim=1).permute(1, 2, 0).contiguous().numpy()


def _pixels(group: Tensor, mean: Tensor, std: Tensor, side: int) -> Tensor:
    """(B, ..., 3, h, w) -> uint8 (B, 3, side + GAP, N * (w + GAP)), the N crops of an image side by side."""
    crops = (group.detach().flatten(1, -4) if group.ndim > 5 else group.detach()) * std + mean
    padded = F.pad(crops.round().clamp(0, 255), (0, GAP, 0, side - crops.shape[-2] + GAP), value=255)
    return padded.permute(0, 2, 3, 1, 4).flatten(3).byte().cpu()


def features_sheet(images: Sequence[Image.Image], colors: Sequence[Tensor], attention: Sequence[Tensor]) -> np.ndarray:
    """One row per image: the image, its patches as colors, and where [CLS] looks.

    Args:
        images: Of any size.
        colors: (h, w, 3) in [0, 1] of each image.
        attention: (h, w) of each image, white at its largest; empty without class token.

    Returns:
        (H, W, 3) uint8. Narrower rows are padded with white to the width of the widest.
    """
    maps = [(part / part.max().clamp(min=1e-12)).unsqueeze(-1).expand(*part.shape, 3) for part in attention]
    columns = [
        [_scaled(image.convert('RGB'), Image.Resampling.BICUBIC) for image in images],
        *([_scaled(_of_unit(part), Image.Resampling.NEAREST) for part in group] for group in (colors, maps) if group),
    ]
    rows = [np.concatenate(cells, axis=1) for cells in zip(*columns, strict=True)]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows])


def _of_unit(colors: Tensor) -> Image.Image:
    return Image.fromarray((colors * 255).round().byte().cpu().numpy())


def _scaled(image: Image.Image, how: Image.Resampling) -> np.ndarray:
    """Of ``HEIGHT``, with a white line below and at the right."""
    size = max(1, round(HEIGHT * image.width / image.height)), HEIGHT
    return np.pad(np.asarray(image.resize(size, how)), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
