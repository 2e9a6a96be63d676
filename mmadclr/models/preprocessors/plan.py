"""Plans on the CPU which photometric operation applies to which image, from the drawn parameters.

The device then executes the plan without synchronization: image indices and parameters of all operations
are sent in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmadclr.annotations import MaybeNone
from mmadclr.datasets.photometric_recipe import COLUMNS, JITTER, NUM_PARAMS, column
from mmadclr.models.preprocessors.photometric_ops import box_taps

SLICE_PIXELS = 50_176  # one view of 224 x 224: its floats and temporaries fit in a CPU's L2 cache


class Step(NamedTuple):
    """An operation, its images (``None``: all; a slice; or an int64 index), and one row of parameters for each."""

    name: str
    rows: slice | Tensor | None
    values: Tensor | None = None


class Operation(NamedTuple):
    """An operation, the images it applies to (N,), and a row of parameters for every image (N, ...)."""

    name: str
    where: np.ndarray
    values: np.ndarray | None = None


class Part(NamedTuple):
    """Images processed together (an int64 index on the CPU; ``None``: all), and their steps in order."""

    rows: Tensor | MaybeNone
    steps: list[Step]


def plan(params: Tensor, pixels: int, sliced: bool) -> list[Part]:
    """Parts that cover the images of ``params`` (N, NUM_PARAMS), a tensor on the CPU.

    Args:
        pixels: H * W of an image.
        sliced: Split into parts of about ``SLICE_PIXELS``, each with the same flip and jitter order, if there are more
            pixels than that. Otherwise there is one part.
    """
    if not len(params):
        return []
    table = params.numpy()
    taps = box_taps(column(params, 'blur_radius')).numpy()
    if not sliced or len(params) * pixels <= SLICE_PIXELS:
        return [Part(None, steps) for steps in _steps(_operations(table, taps), [0, len(params)])]
    order, bounds = _slices(table, max(1, SLICE_PIXELS // pixels))
    steps_of_slices = _steps(_operations(table[order], taps[order]), bounds)
    rows = torch.from_numpy(order).split(np.diff(bounds).tolist())
    return [Part(*part) for part in zip(rows, steps_of_slices, strict=True)]


def checked(params: Tensor) -> Tensor:
    """Parameters (..., NUM_PARAMS) as (N, NUM_PARAMS).

    Raises:
        ValueError: They are on a device, or their last axis has another length.
    """
    if params.device.type != 'cpu':
        raise ValueError(
            f'photometric parameters are on {params.device}: keep them on the CPU, only *_views are moved to a device'
        )
    if params.shape[-1] != NUM_PARAMS:
        raise ValueError(
            f'photometric parameters have shape {tuple(params.shape)}: the last axis must have {", ".join(COLUMNS)}'
        )
    return params.flatten(0, -2)


def send(plans: Sequence[list[Part]], device: torch.device) -> list[list[Part]]:
    """The same plans with indices and parameters on ``device``, in a single copy; from pinned memory for CUDA."""
    tensors = [t for parts in plans for part in parts for step in part.steps for t in step[1:] if torch.is_tensor(t)]
    if not tensors:
        return list(plans)
    there = iter(send_tensors(tensors, device))

    def moved(step: Step) -> Step:
        rows = next(there) if isinstance(step.rows, Tensor) else step.rows
        return Step(step.name, rows, None if step.values is None else next(there))

    return [[Part(part.rows, [moved(step) for step in part.steps]) for part in parts] for parts in plans]


def send_tensors(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of several dtypes on ``device``, as slices of one buffer; from pinned memory for CUDA, so asynchronous."""
    if device.type == 'cpu':
        return list(tensors)
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())  # keeps every slice aligned
    pieces = [tensors[i].contiguous().flatten().view(torch.uint8) for i in order]
    buffer = torch.cat(pieces)
    if device.type == 'cuda':
        buffer = buffer.pin_memory()
    buffer = buffer.to(device, non_blocking=True)
    result = list(tensors)
    for i, piece in zip(order, buffer.split([len(piece) for piece in pieces]), strict=True):
        result[i] = piece.view(tensors[i].dtype).view(tensors[i].shape)
    return result


def _operations(table: np.ndarray, taps: np.ndarray) -> list[Operation]:
    """All operations in DINO's order: flip, jitter in drawn order, gray, blur, solarize."""
    values = dict(zip(COLUMNS, np.ascontiguousarray(table.T), strict=True))
    jitter = [
        Operation(f'adjust_{name}', values[f'order_{position}'] == index, values[name])
        for position in range(len(JITTER))
        for index, name in enumerate(JITTER)
    ]
    return [
        Operation('flip', values['flip'] > 0),
        *jitter,
        Operation('gray', values['gray'] > 0),
        Operation('gaussian_blur', values['blur_radius'] > 0, taps),
        Operation('solarize', values['solarize'] > 0),
    ]


def _steps(operations: Sequence[Operation], bounds: Sequence[int]) -> list[list[Step]]:
    """For each slice ``bounds[i]:bounds[i + 1]`` of the images, its operations."""
    counts = np.add.reduceat([operation.where.astype(int) for operation in operations], bounds[:-1], axis=1).T.tolist()
    slices = [slice(*pair) for pair in pairwise(bounds)]
    return [
        [_step(operation, images, count) for operation, count in zip(operations, row, strict=True) if count]
        for images, row in zip(slices, counts, strict=True)
    ]


def _step(operation: Operation, images: slice, count: int) -> Step:
    """``operation`` on a slice of the images, of which it affects ``count`` > 0."""
    rows, values = None, None if operation.values is None else operation.values[images]
    if count < images.stop - images.start:
        index = operation.where[images].nonzero()[0]
        first, last = int(index[0]), int(index[-1]) + 1
        rows = slice(first, last) if last - first == count else torch.from_numpy(index)
        values = None if values is None else values[index]
    if values is not None and operation.name == 'gaussian_blur':
        values = values[:, np.any(values, axis=0)]  # taps are symmetric: drops columns at both ends that are zero for all
    return Step(operation.name, rows, None if values is None else torch.from_numpy(values))


def _slices(table: np.ndarray, size: int) -> tuple[np.ndarray, list[int]]:
    """Image order, and bounds of slices in it: at most ``size`` images with the same flip and jitter order.

    Within a slice the blur radius increases, so the blurred images are contiguous.
    """
    program = [table[:, COLUMNS.index(name)] for name in ('flip', *(f'order_{i}' for i in range(len(JITTER))))]
    order = np.lexsort((table[:, COLUMNS.index('blur_radius')], *program))
    changes = np.any([np.diff(values[order]) != 0 for values in program], axis=0).nonzero()[0] + 1
    groups = pairwise([0, *changes.tolist(), len(table)])
    return order, [*(i for first, last in groups for i in range(first, last, size)), len(table)]
