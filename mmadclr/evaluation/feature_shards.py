"""Features of a data set distributed over processes, and their exchange by tensor collectives.

Shape legend: N images of the full set, n of them on this process, D channels, W processes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from mmengine import dist
from torch import Tensor

from mmadclr.evaluation.rows import FeatureRows, FeatureSet

GATHER_BYTES = 2**26  # exchanged at a time, over all processes


class Shard(NamedTuple):
    """One process's part of the features of a labeled set.

    ``features``: (n, D), in memory or on disk. ``rows``: (n,) position of each in the full set, ascending; every position is
    on exactly one process. ``labels``: (N,) of the full set.
    """

    features: Tensor | FeatureRows
    rows: Tensor
    labels: Tensor

    def full(self) -> tuple[Tensor, Tensor]:
        """Features (N, D) and labels (N,) of the full set on every process."""
        return gather_rows(self.features, self.rows, len(self.labels)), self.labels


def share(indices: np.ndarray) -> np.ndarray:
    """This process's part of the indices: a contiguous range."""
    return np.array_split(indices, dist.get_world_size())[dist.get_rank()]


def even_share(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) images of this process, the same number on every process, and (n,) whether they count or are padding.

    A model sharded over processes must be called equally often on each.
    """
    size = -(-count // dist.get_world_size())
    places = np.arange(size) + size * dist.get_rank()
    return places % count, places < count


def shard_of(features: FeatureSet) -> Shard:
    """This process's part: the rows that only it holds or, if every process has all, a contiguous range."""
    labels = torch.from_numpy(features.labels)
    if features.held is not None:
        return Shard(features.rows, torch.from_numpy(features.held), labels)
    mine = share(np.arange(len(labels)))
    start = int(mine[0]) if len(mine) else 0
    return Shard(features.rows.between(start, start + len(mine)), torch.from_numpy(mine), labels)


def counts_of(number: int) -> list[int]:
    """The value of ``number`` on every process."""
    return [int(each) for each in dist.all_gather(torch.tensor([number]))]


def gather_padded(part: Tensor, length: int) -> Tensor:
    """(n, ...) of every process -> (W, length, ...), each padded with zeros; ``length`` is at least the maximum n."""
    padded = part.new_zeros(length, *part.shape[1:])
    padded[: len(part)] = part
    return torch.stack(dist.all_gather(padded))


def gather_uneven(part: Tensor) -> list[Tensor]:
    """(n, ...) of every process, with different n."""
    counts = counts_of(len(part))
    return [each[:count] for each, count in zip(gather_padded(part, max(counts)), counts, strict=True)]


def gather_rows(part: Tensor | FeatureRows, rows: Tensor, count: int) -> Tensor:
    """Rows (n, ...) of every process -> (count, ...), placed at ``rows`` (n,); in chunks of ``GATHER_BYTES``."""
    if dist.get_world_size() == 1:
        return part[:]
    sample = part[:0]
    width = sample.new_zeros(1, *sample.shape[1:]).nbytes
    step = max(1, GATHER_BYTES // (width * dist.get_world_size()))
    full = sample.new_zeros(count, *sample.shape[1:])
    for start in range(0, max(counts_of(len(rows))), step):
        places = gather_uneven(rows[start : start + step].to(full.device))
        pieces = gather_uneven(part[start : start + step])
        full[torch.cat(places)] = torch.cat(pieces)
    return full
