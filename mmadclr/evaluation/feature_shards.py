"""Features of a data set that are spread over the processes, and their exchange by collectives of tensors.

Shape legend: N images of the whole set, n of them on this process, D channels, W processes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from mmengine import dist
from torch import Tensor

from mmadclr.evaluation.rows import FeatureRows, FeatureSet

GATHER_BYTES = 2**26  # that all processes together exchange at a time


class Shard(NamedTuple):
    """What one process holds of the features of a labeled set.

    ``features``: (n, D), in memory or on disk. ``rows``: (n,) place of each in the whole set, rising; every place is on one
    process only. ``labels``: (N,) of the whole set.
    """

    features: Tensor | FeatureRows
    rows: Tensor
    labels: Tensor

    def full(self) -> tuple[Tensor, Tensor]:
        """Features (N, D) and labels (N,) of the whole set on every process."""
        return gather_rows(self.features, self.rows, len(self.labels)), self.labels


def share(indices: np.ndarray) -> np.ndarray:
    """What this process takes of them: a contiguous part."""
    return np.array_split(indices, dist.get_world_size())[dist.get_rank()]


def shard_of(features: FeatureSet) -> Shard:
    """What falls to this process: the rows that it alone holds, or where every process has all, a contiguous share."""
    labels = torch.from_numpy(features.labels)
    if features.held is not None:
        return Shard(features.rows, torch.from_numpy(features.held), labels)
    mine = share(np.arange(len(labels)))
    start = int(mine[0]) if len(mine) else 0
    return Shard(features.rows.between(start, start + len(mine)), torch.from_numpy(mine), labels)


def counts_of(number: int) -> list[int]:
    """A number of every process."""
    return [int(each) for each in dist.all_gather(torch.tensor([number]))]


def gather_padded(part: Tensor, length: int) -> Tensor:
    """(n, ...) of every process -> (W, length, ...), each filled up with zeros; ``length`` is no less than any n."""
    padded = part.new_zeros(length, *part.shape[1:])
    padded[: len(part)] = part
    return torch.stack(dist.all_gather(padded))


def gather_uneven(part: Tensor) -> list[Tensor]:
    """(n, ...) of every process, n being different."""
    counts = counts_of(len(part))
    return [each[:count] for each, count in zip(gather_padded(part, max(counts)), counts, strict=True)]


def gather_rows(part: Tensor | FeatureRows, rows: Tensor, count: int) -> Tensor:
    """Rows (n, ...) of every process -> (count, ...), each at its place ``rows`` (n,); in pieces of ``GATHER_BYTES``."""
    if dist.get_world_size() == 1:
        return part[:]
    sample = part[:0]
    width = sample.new_zeros(1, *sample.shape[1:]).nbytes
    step = max(1, GATHER_BYTES // (width * dist.get_world_size()))
    whole = sample.new_zeros(count, *sample.shape[1:])
    for start in range(0, max(counts_of(len(rows))), step):
        places = gather_uneven(rows[start : start + step].to(whole.device))
        pieces = gather_uneven(part[start : start + step])
        whole[torch.cat(places)] = torch.cat(pieces)
    return whole
