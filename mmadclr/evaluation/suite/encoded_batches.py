"""Batches of training images for heads on frozen features: the processes share out the encoding of every batch.

Shape legend: B images of a batch, D channels, h x w patches, S side of an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmadclr.distributed.agreement import together
from mmadclr.evaluation.dense.linear_segmentation import Batch
from mmadclr.evaluation.suite.passes import batches as read_batches
from mmadclr.evaluation.suite.passes import checked_rows, my_part, shown, summed, units_of
from mmadclr.evaluation.suite.source import Source


class Encoding(NamedTuple):
    """``read``: input (3, S, S) and label map (S, S) by place, in a loader worker. ``encode``: maps (B, D, h, w) of inputs.
    ``shape``: (D, h, w). ``side``: S.
    """

    read: Callable[[int], tuple[Tensor, Tensor]]
    encode: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int]
    side: int


def encoded_batches(source: Source, batches: Sequence[Sequence[int]], encoding: Encoding, what: str) -> Iterator[Batch]:
    """Features and label maps of every batch of places, on the device, on every process; one loader for all batches.

    Raises:
        ValueError, FileNotFoundError: An image cannot be read, on this or another process.
    """
    units = [my_part(units_of(len(places), source.loading.batch_size)) for places in batches]
    mine = [[places[place] for place in unit] for places, some in zip(batches, units, strict=True) for unit in some]
    found = read_batches(encoding.read, mine, source.loading.workers)
    stream = shown(found, sum(map(len, mine)), what, len)
    for places, some in zip(batches, units, strict=True):
        rows = together(partial(_encoded, stream, some, len(places), encoding))
        maps, labels = (torch.from_numpy(summed(rows[key])).to(source.encoder.device) for key in ('maps', 'labels'))
        yield maps, labels


def _encoded(stream: Iterator[list[Any]], units: list[list[int]], count: int, encoding: Encoding) -> dict[str, np.ndarray]:
    """Rows of a batch, zero except for those of this process."""
    rows: dict[str, np.ndarray] = dict(
        maps=np.zeros((count, *encoding.shape), np.float32),
        labels=np.zeros((count, encoding.side, encoding.side), np.uint8),
    )
    for unit in units:
        images, labels = zip(*next(stream), strict=True)
        part = slice(unit[0], unit[-1] + 1)
        rows['maps'][part] = checked_rows(encoding.encode(torch.stack(images)), 'float32')
        rows['labels'][part] = torch.stack(labels).numpy()
    return rows
