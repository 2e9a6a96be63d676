"""Features of an image set, in memory or on disk, read a few rows at a time.

Shape legend: N images, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class FeatureRows:
    """Features (N, D), concatenated from one or more arrays, which may be memory-mapped.

    Indexing with slices or arrays of rows returns CPU tensors with copies of those rows, in their order.

    Args:
        parts: Arrays (n, D) of one dtype; empty ones are dropped.
        may_be_empty: Allow zero rows, as on a process without images.

    Raises:
        ValueError: There are no rows.
    """

    def __init__(self, parts: Sequence[np.ndarray], may_be_empty: bool = False) -> None:
        self.parts = [part for part in parts if len(part)] or list(parts[:1])
        if not may_be_empty and not any(map(len, self.parts)):
            raise ValueError('no features: none of the images could be read')
        self._starts = np.cumsum([0, *map(len, self.parts)])
        self.shape = (int(self._starts[-1]), self.parts[0].shape[1])
        self.dtype = self.parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> Tensor:
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        part_of = np.searchsorted(self._starts, rows, side='right') - 1
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        for number in np.unique(part_of):
            mine = part_of == number
            found[mine] = self.parts[number][rows[mine] - self._starts[number]]
        return torch.from_numpy(found)

    def between(self, start: int, stop: int) -> FeatureRows:
        """A range of rows, possibly empty, in the same arrays, without reading or copying."""
        bounds = [np.clip((start - first, stop - first), 0, None) for first in self._starts[:-1]]
        return FeatureRows([part[a:b] for part, (a, b) in zip(self.parts, bounds, strict=True)], may_be_empty=True)


class FeatureSet(NamedTuple):
    """Features of a labeled image set, in its order, without unreadable images.

    ``rows``: (N, D), or (n, D) of only this process's images. ``labels``: (N,) int64. ``indices``: (N,)
    index of each image in the set, ascending. ``classes``: names. ``held``: None, or (n,) the images of ``rows``,
    ascending; each is on one process.
    """

    rows: FeatureRows
    labels: np.ndarray
    indices: np.ndarray
    classes: tuple[str, ...]
    held: np.ndarray | None = None

    def select(self, indices: np.ndarray) -> FeatureSet:
        """The readable images with these indices, in memory."""
        chosen = np.flatnonzero(np.isin(self.indices, indices))
        rows, held = chosen, None
        if self.held is not None:
            rows = np.flatnonzero(np.isin(self.held, chosen))
            held = np.searchsorted(chosen, self.held[rows])
        features = FeatureRows([self.rows[rows].numpy()], may_be_empty=held is not None)
        return self._replace(rows=features, labels=self.labels[chosen], indices=self.indices[chosen], held=held)
