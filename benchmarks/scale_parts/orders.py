"""The order of an epoch, as one of eight processes makes it and has it ready for all steps."""

from __future__ import annotations

from unittest import mock

import mmengine.dataset.sampler as mmengine_sampler
import numpy as np
from common import Row
from mmengine.dataset import DefaultSampler

from mmadclr.datasets.samplers import EpochSampler, ShardSampler
from scale_parts.measured import cost, cost_rows

PROCESSES = 8
IMAGES_A_SHARD = 10_000


class Images:
    """So many images, of which only the number matters."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


class Shards(Images):
    """The same in shards."""

    @property
    def source(self) -> Shards:
        return self

    @property
    def shard_of(self) -> np.ndarray:
        return np.repeat(np.arange(-(-self.count // IMAGES_A_SHARD), dtype=np.int32), IMAGES_A_SHARD)[: self.count]


def order(kind: str, count: int, warm_up: bool = False) -> object:
    """An iterator over an epoch of which the first image is known."""
    with mock.patch.object(mmengine_sampler, 'get_dist_info', return_value=(0, PROCESSES)):
        count = 1000 if warm_up else count
        if kind == 'shards':
            sampler = ShardSampler(Shards(count), batch_size=64, seed=0)
        else:
            sampler = (EpochSampler if kind == 'images' else DefaultSampler)(Images(count), seed=0)
    images = iter(sampler)
    next(images)
    return images


def rows(scale: float = 1.0) -> list[Row]:
    found = []
    for millions in (1.28, 10, 100):
        count = int(millions * 1e6 * scale)
        goal = dict(seconds_target='<= 5', memory_target='<= 1,000') if millions == 100 else {}
        ours, theirs = ([cost(order, kind, count)] for kind in ('images', 'mmengine'))
        found += cost_rows(f'order of {count:,} images, one of {PROCESSES} processes', ours, theirs, **goal)
        found += cost_rows(f'order of {count:,} images in shards', [cost(order, 'shards', count)])
    return found
