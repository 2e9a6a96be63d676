"""Which image comes when: keys that tell workers seed and epoch, and an order for tar shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import print_log

from mmadclr.registry import DATA_SAMPLERS

STEP_LANES = 16
SEED_STRIDE = 0x9E3779B1  # odd, and 2**32 divided by the golden ratio: its multiples stay far from each other and from 0


class SampleKey(NamedTuple):
    """All that a random sample depends on."""

    seed: int
    epoch: int
    index: int


def order_seed(seed: int, epoch: int) -> int:
    """Seed of the order of an epoch, of 32 bits (all that torch's generator on the CPU takes).

    mmengine and mmpretrain add epoch to seed, so a run goes through the orders of the next seed's run one epoch behind it.
    Here, seeds up to 1000 apart share no order within a million epochs. The orders of seed 0 are those of mmengine.
    """
    return (seed * SEED_STRIDE + epoch) % 2**32


@DATA_SAMPLERS.register_module()
class EpochSampler(DefaultSampler):
    """mmengine's sampler with keys ``(seed, epoch, index)``: persistent workers, too, learn which epoch a sample is for.

    The seed is the runner's, so it moves order and augmentation alike; no two seeds go through the same orders
    (``order_seed``).

    Attributes:
        summed_epoch: An epoch whose order is seeded by the sum of seed and epoch, as all were once: the rest of an epoch
            begun then keeps its order (``EpochSeedHook``).
    """

    left_out = 0
    summed_epoch: int | None = None

    def skip(self, count: int) -> None:
        """Leaves out the first ``count`` samples of this process in the next pass, as a run that goes on has had them."""
        self.left_out = count

    def __iter__(self) -> Iterator[SampleKey]:
        start, self.left_out = self.left_out, 0
        return (SampleKey(self.seed, self.epoch, index) for index in islice(self.indices(), start, None))

    def indices(self) -> Iterator[int]:
        """The images of this process in the order of the epoch."""
        if not self.shuffle:
            return super().__iter__()
        order = self.order()
        return iter(order[np.arange(self.rank, self.total_size, self.world_size) % len(order)].tolist())

    def order(self) -> np.ndarray:
        """(N,) the image at each position of the epoch, over all processes."""
        summed = self.epoch == self.summed_epoch
        seed = self.seed + self.epoch if summed else order_seed(self.seed, self.epoch)
        return torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(seed)).numpy()


@DATA_SAMPLERS.register_module()
class ShardSampler(EpochSampler):
    """An order in which every process and worker reads shards of its own, nearly from front to back.

    The epoch is one sequence over all processes, ``batch_size x processes`` positions a step. Positions are dealt to lanes
    by step and by place in the step; each lane takes a contiguous run of the shuffled shards, mixed among
    ``shuffle_buffer`` images. A process takes every ``processes``-th position and a worker every ``workers``-th step, so
    they share no lane (and shards only where two runs meet) if their numbers divide ``slot_lanes`` and ``step_lanes``.
    Every image comes once an epoch, apart from the few that fill up the last round of processes; the order depends on seed,
    epoch and total batch alone.

    Args:
        dataset: An ``ImageDataset`` with ``shards``.
        batch_size: Images of a batch of one process; the runner fills it in.
        shuffle: Off, the order is that of the data set, and lanes do not matter.
        seed: The runner's.
        round_up: Every process gets the same number of images.
        shuffle_buffer: Neighbouring images that are mixed among each other.
        slot_lanes: A multiple of the number of processes.
        step_lanes: A multiple of the number of workers.

    Raises:
        ValueError: The data set has no shards, ``batch_size`` is missing, or a number is below 1.
    """

    def __init__(
        self,
        dataset,
        batch_size: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        shuffle_buffer: int = 2000,
        slot_lanes: int = 8,
        step_lanes: int = STEP_LANES,
    ) -> None:
        super().__init__(dataset, shuffle, seed, round_up)
        self.shard_of = getattr(getattr(dataset, 'source', None), 'shard_of', None)
        if self.shard_of is None:
            raise ValueError("ShardSampler: the data set has no shards; set its shards='*.tar', or take EpochSampler")
        if batch_size is None:
            raise ValueError('ShardSampler: batch_size is missing; it is that of the data loader (images per process)')
        numbers = dict(batch_size=batch_size, shuffle_buffer=shuffle_buffer, slot_lanes=slot_lanes, step_lanes=step_lanes)
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f'ShardSampler: {name}={number} must be 1 or more')
        self.total_batch = batch_size * self.world_size
        self.shuffle_buffer, self.slot_lanes, self.step_lanes = shuffle_buffer, slot_lanes, step_lanes
        if shuffle and slot_lanes % self.world_size:
            print_log(
                f'ShardSampler: slot_lanes={slot_lanes} is no multiple of {self.world_size} processes, so several '
                'read the same shards',
                'current',
                logging.WARNING,
            )

    def order(self) -> np.ndarray:
        lanes = position_lanes(len(self.shard_of), self.total_batch, self.step_lanes, self.slot_lanes)
        return shard_order(self.shard_of, lanes, self.shuffle_buffer, np.random.default_rng((self.seed, self.epoch)))


def check_workers(dataloader: dict) -> None:
    """Says so if the workers of a loader's config do not divide the ``step_lanes`` of its ``ShardSampler``."""
    workers, lanes = dataloader.get('num_workers', 0), dataloader['sampler'].get('step_lanes', STEP_LANES)
    if workers and lanes % workers:
        message = f'ShardSampler: step_lanes={lanes} is no multiple of {workers} workers, so several read the same shards'
        print_log(message, 'current', logging.WARNING)


def warn_of_scattered_reads(loader) -> None:
    """Says so if images of shards are shuffled without regard to where they lie."""
    shard_of = getattr(getattr(loader.dataset, 'source', None), 'shard_of', None)
    shuffled = getattr(loader.sampler, 'shuffle', False) and not isinstance(loader.sampler, ShardSampler)
    if shard_of is not None and shuffled:
        name = type(loader.sampler).__name__
        message = f"{name} reads all over the shards; sampler.type='ShardSampler' reads them nearly in order"
        print_log(message, 'current', logging.WARNING)


def position_lanes(count: int, total_batch: int, step_lanes: int, slot_lanes: int) -> np.ndarray:
    """(count,) the lane of each position: by its step, and by its place in the step."""
    steps, slots = np.divmod(np.arange(count), total_batch)
    return (steps % step_lanes) * slot_lanes + slots % slot_lanes


def shard_order(shard_of: np.ndarray, lanes: np.ndarray, buffer: int, rng: np.random.Generator) -> np.ndarray:
    """Image at each position such that every lane goes through a contiguous run of the shuffled shards.

    Args:
        shard_of: (N,) shard of each image.
        lanes: (N,) lane of each position.
        buffer: Images of a run are mixed among as many neighbours.
        rng: Draws the order of shards and of images.

    Returns:
        (N,) a permutation of the images.
    """
    shards = rng.permutation(int(shard_of.max()) + 1)
    sequence = np.argsort(shards[shard_of], kind='stable')
    by_lane = np.argsort(lanes, kind='stable')  # positions, lane after lane, rising within each
    lengths = np.bincount(lanes)
    places = np.arange(len(lanes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # within the run of the lane
    mixed = np.lexsort((rng.random(len(lanes)), places // buffer, lanes[by_lane]))
    order = np.empty_like(sequence)
    order[by_lane] = sequence[mixed]
    return order
