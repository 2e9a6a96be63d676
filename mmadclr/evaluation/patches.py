"""Patches and pixels of masked images: class shares of patches, and passes over masks or features.

Shape legend: N images, B images of a batch, P patches of an image (h x w), D channels, C classes, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine import dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmadclr.datasets.label_maps import LabelMapError
from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.datasets.masked_images import MaskedImageDataset
from mmadclr.distributed.agreement import together
from mmadclr.evaluation.extraction import NO_IMAGE, Batch, feature_batches, in_order
from mmadclr.evaluation.feature_shards import even_share, share
from mmadclr.evaluation.frozen import Encoder


def patch_labels(masks: Tensor, grid: tuple[int, int], num_classes: int) -> tuple[Tensor, Tensor]:
    """Label maps (N, S, S), negative values ignored -> patch fractions of every class (N, P, C) and valid pixels (N, P).

    Computed by counting, in the memory of masks and result. If the grid does not divide the sides, cells overlap as in
    ``torch.nn.functional.adaptive_avg_pool2d``.

    Raises:
        ValueError: A label of ``num_classes`` or more.
    """
    if masks.numel() and masks.max() >= num_classes:
        raise ValueError(f'label {int(masks.max())} must be below {num_classes}, the number of classes')
    axes = [_cells(side, count, masks.device) for side, count in zip(masks.shape[1:], grid, strict=True)]
    (rows, row_of, heights), (columns, column_of, widths) = axes
    count = grid[0] * grid[1]
    places = torch.arange(len(masks), device=masks.device)[:, None, None] * count + row_of[:, None] * grid[1] + column_of
    codes = masks[:, rows[:, None], columns].long().clamp(min=-1).add(1).add(places * (num_classes + 1))
    counts = codes.flatten().bincount(minlength=len(masks) * count * (num_classes + 1)).view(len(masks), *grid, -1)
    shares, areas = counts[..., 1:].float(), (heights[:, None] * widths).float()
    covered = shares.sum(dim=-1) / areas
    shares = shares / areas[..., None] / covered[..., None].clamp(min=1e-12)
    return shares.flatten(1, 2), covered.flatten(1)


def _cells(side: int, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Positions along a side in cell order, the cell of each, and the lengths (count,) of the cells."""
    starts = [i * side // count for i in range(count)]
    ends = [-(-(i + 1) * side // count) for i in range(count)]
    lengths = torch.tensor([end - start for start, end in zip(starts, ends, strict=True)], device=device)
    positions = torch.cat([torch.arange(start, end, device=device) for start, end in zip(starts, ends, strict=True)])
    return positions, torch.arange(count, device=device).repeat_interleave(lengths), lengths


def usable_patches(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """(P,) whether a patch of a label map (S, S) has a pixel that is not ignored."""
    return patch_labels(mask.clamp(max=0)[None], grid, 1)[1][0] > 0


class _EachMask(Dataset):
    """Results of a function for each index, or its error: raised in a worker, it would include the traceback."""

    def __init__(self, function: Callable[[int], Any], count: int) -> None:
        self.function, self.count = function, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        try:
            return self.function(index)
        except LabelMapError as error:
            return error


def over_masks(function: Callable[[int], Any], count: int, num_workers: int) -> Iterator[tuple[int, Any]]:
    """``(index, function(index))`` for this process's share of ``count`` images, computed by loader workers.

    Raises:
        LabelMapError: The function raised it.
    """
    indices = share(np.arange(count))
    generator = torch.Generator()  # otherwise every pass would draw a seed from the training generator
    settings = dict(sampler=indices.tolist(), num_workers=num_workers, collate_fn=list, generator=generator)
    loader = outlive_signals(DataLoader(_EachMask(function, count), 16, **settings))
    found = (value for batch in loader for value in batch)
    for index, value in zip(indices.tolist(), found, strict=True):
        if isinstance(value, LabelMapError):
            raise value
        yield index, value


def count_usable(dataset: MaskedImageDataset, grid: tuple[int, int], num_workers: int) -> Tensor:
    """(N,) number of usable patches of every image, on all processes, each of which reads a part of the masks.

    Raises:
        ValueError: Another process failed.
        LabelMapError: See ``MaskedImageDataset.mask``.
    """
    counts = torch.zeros(len(dataset), dtype=torch.int64)

    def read() -> None:
        for index, count in over_masks(partial(_count_usable_of, dataset, grid), len(dataset), num_workers):
            counts[index] = count

    together(read)
    dist.all_reduce(counts)
    return counts


def _count_usable_of(dataset: MaskedImageDataset, grid: tuple[int, int], index: int) -> int:
    return int(usable_patches(dataset.mask(index), grid).sum())


def choose_patches(usable: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Draws ``number`` of all usable patches (at most all), with a fixed seed, independent of processes.

    Args:
        usable: (N,) usable patches of every image.
        number: How many to draw.

    Returns:
        (M,) image of each, and (M,) index among its usable patches.
    """
    ends = usable.cumsum(dim=0)
    total = int(ends[-1]) if len(ends) else 0
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:number].clone()
    images = torch.searchsorted(ends, drawn, right=True)
    return images, drawn - (ends - usable)[images]


def patch_batches(model: Encoder, dataset: MaskedImageDataset, batch_size: int, num_workers: int) -> Iterator[Batch]:
    """Runs a model over this process's part of a data set whose samples have a ``mask``, in batches.

    Args:
        model: Called with ``data_preprocessor`` output and ``mode='patches'``.
        dataset: With ``with_mask``.
        batch_size, num_workers: Of the loader.

    Returns:
        ``outputs`` (B, P, D) and ``masks`` (B, S, S) of readable images, each on one process only.
    """
    indices, counts = even_share(len(dataset))
    loader = in_order(dataset, indices, batch_size, num_workers)
    return feature_batches(model, loader, np.where(counts, indices, NO_IMAGE), mode='patches')
