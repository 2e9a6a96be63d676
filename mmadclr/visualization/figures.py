"""Figures of a run: crops of a batch, curves, attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mmadclr.show.drawing import HEAT, QUERY_COLOR, draw_box
from mmadclr.show.last_block import attention_maps

GLOBAL_COLOR, LOCAL_COLOR = 'white', 'deepskyblue'


def draw_crops(images: list[Image.Image], data: dict, views: dict, mean: Tensor, std: Tensor, out: str | Path) -> Path:
    """One row per image: the image with all boxes, then its views and query crops as the model sees them.

    Args:
        images: The B images before cropping.
        data: A collated batch of ``MultiCrop`` samples (boxes in pixels of the image).
        views: ``views`` of the preprocessor for that batch.
        mean, std: (3, 1, 1), to undo the normalization.
        out: Image file to write; returned.
    """
    groups = [views['global_views'], views['local_views'], views['query_crops'][:, 0], views['query_crops'][:, 1]]
    columns = 1 + sum(group.shape[1] for group in groups)
    figure = Figure(figsize=(1.3 * columns, 1.5 * len(images) + 0.4))
    grid = figure.subplots(len(images), columns, squeeze=False)
    names = ['global {}', 'local {}', 'query {}, view 1', 'query {}, view 2']
    titles = ['image'] + [n.format(i + 1) for n, group in zip(names, groups, strict=True) for i in range(group.shape[1])]
    for row, image in enumerate(images):
        grid[row, 0].imshow(image)
        for kind, color, style in (
            ('global', GLOBAL_COLOR, '-'),
            ('local', LOCAL_COLOR, ':'),
            ('query', QUERY_COLOR, '-'),
        ):
            _draw_boxes(grid[row, 0], data[f'{kind}_boxes'][row].tolist(), color, style)
        pictures = [view for group in groups for view in group[row]]
        for axis, view in zip(grid[row, 1:], pictures, strict=True):
            axis.imshow((view * std + mean).permute(1, 2, 0).round().clamp(0, 255).byte().cpu().numpy())
    for axis, title in zip(grid[0], titles, strict=True):
        axis.set_title(title, fontsize=7)
    return _save(figure, grid.flatten(), out)


def draw_curves(scalars: str | Path, out: str | Path, baselines: dict[str, float] | None = None) -> Path:
    """Loss terms and k-NN accuracy over the run, from mmengine's JSON lines (``vis_data/scalars.json``).

    Args:
        scalars: The JSON-lines file.
        out: Image file to write; returned.
        baselines: Accuracies in percent to draw as horizontal lines, by name.
    """
    records = [json.loads(line) for line in Path(scalars).read_text().splitlines()]
    figure = Figure(figsize=(9, 3.4), layout='constrained')
    losses, accuracy = figure.subplots(1, 2)
    train = [record for record in records if 'loss' in record]
    for name in sorted({key for record in train for key in record if key.startswith('loss_')}):
        losses.plot([r['step'] for r in train], [r[name] for r in train], label=name)
    losses.set(xlabel='iteration', ylabel='loss (nats)')
    losses.legend(frameon=False)
    for name in sorted({key for record in records for key in record if key.startswith('knn') and key.endswith('top1')}):
        points = [(r['step'], r[name]) for r in records if name in r]
        accuracy.plot(*zip(*points, strict=True), marker='o', label=f'teacher, {name}')
    for (name, value), style in zip((baselines or {}).items(), ('--', ':', '-.'), strict=False):
        accuracy.axhline(value, color='gray', linestyle=style, label=name)
    accuracy.set(xlabel='epoch', ylabel='k-NN top-1 (%)')
    accuracy.legend(frameon=False)
    figure.savefig(out, dpi=110)
    return Path(out)


@torch.no_grad()
def draw_attention(
    backbone, images: Tensor, crops: Tensor, shown: list[Image.Image], crop_boxes: Tensor, out: str | Path
) -> Path:
    """Attention maps of the last block over the image, averaged over heads, for [CLS] and each query crop.

    Args:
        backbone: A ``QueryViT``.
        images: Normalized (B, 3, H, W); ``crops``: normalized (B, Q, 3, q, q).
        shown: The B images as pictures of H x W pixels.
        crop_boxes: (B, Q, 4) boxes of the crops, in pixels of ``shown``.
        out: Image file to write; returned.
    """
    num_queries = crops.shape[1]
    maps = attention_maps(backbone, images, crops)
    figure = Figure(figsize=(1.6 * (2 + num_queries), 1.7 * len(images) + 0.3))
    grid = figure.subplots(len(images), 2 + num_queries, squeeze=False)
    for row, picture in enumerate(shown):
        grid[row, 0].imshow(picture)
        _draw_boxes(grid[row, 0], crop_boxes[row].tolist(), QUERY_COLOR, '-')
        for column, heat in enumerate(maps[row]):
            axis = grid[row, column + 1]
            axis.imshow(picture.convert('L'), cmap='gray')
            axis.imshow(heat.cpu().numpy(), cmap=HEAT, alpha=0.65)
            if column:
                _draw_boxes(axis, [crop_boxes[row, column - 1].tolist()], QUERY_COLOR, '-')
    for axis, title in zip(grid[0], ['image', '[CLS]', *(f'query {i + 1}' for i in range(num_queries))], strict=True):
        axis.set_title(title, fontsize=8)
    return _save(figure, grid.flatten(), out)


def _draw_boxes(axis: Axes, boxes: list, color: str, style: str) -> None:
    for box in boxes:
        draw_box(axis, box, color, style)


def _save(figure: Figure, axes: np.ndarray, out: str | Path) -> Path:
    for axis in axes:
        axis.set_axis_off()
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.01, top=1 - 0.3 / figure.get_figheight(), wspace=0.05, hspace=0.05
    )
    figure.savefig(out, dpi=110)
    return Path(out)
