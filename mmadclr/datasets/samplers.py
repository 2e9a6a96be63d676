"""Which image comes when: keys that tell workers seed and epoch, and an order for tar shards."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import print_log

from mmadclr.registry import DATA_SAMPLERS

STEP_LANES = 16
CHUNK = 1 << 16  # images whose keys are made at a time
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
        seed, epoch, images = self.seed, self.epoch, self.images()[start:]
        chunks = (images[first : first + CHUNK].tolist() for first in range(0, len(images), CHUNK))
        return (SampleKey(seed, epoch, index) for chunk in chunks for index in chunk)

    def images(self) -> np.ndarray:
        """(n,) the images of this process, in the order of the epoch: every ``world_size``-th position of it."""
        if not self.shuffle:
            return self._rounded_up(np.arange(self.rank, len(self.dataset), self.world_size), np.arange(self.world_size))
        summed = self.epoch == self.summed_epoch
        seed = self.seed + self.epoch if summed else order_seed(self.seed, self.epoch)
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(seed)).numpy()
        return self._rounded_up(order[self.rank :: self.world_size], order[: self.world_size])

    def _rounded_up(self, images: np.ndarray, first: np.ndarray) -> np.ndarray:
        """The images of this process, and behind them those of the ``first`` of the epoch that fill up the last round.

        A copy of as few bytes as it takes, because an epoch keeps it.
        """
        positions = np.arange(self.rank + len(images) * self.world_size, self.total_size, self.world_size)
        repeated = first[positions % len(self.dataset)]
        return np.concatenate((images, repeated), dtype=self._dtype(), casting='same_kind')

    def _dtype(self) -> type[np.integer]:
        return np.int32 if len(self.dataset) <= np.iinfo(np.int32).max else np.int64


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
        shuffle_buffer: Neighboring images that are mixed among each other.
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

    def images(self) -> np.ndarray:
        if not self.shuffle:
            return super().images()
        images = np.empty(len(range(self.rank, len(self.shard_of), self.world_size)), dtype=self._dtype())
        first = np.empty(self.world_size, dtype=self._dtype())  # of all processes, for the end of the last round
        rng = np.random.default_rng((self.seed, self.epoch))
        for positions, found in shard_order(self.shard_of, self.lanes(), self.shuffle_buffer, rng, self.reads):
            mine, early = positions % self.world_size == self.rank, positions < self.world_size
            images[positions[mine] // self.world_size] = found[mine]
            first[positions[early]] = found[early]
        return self._rounded_up(images, first)

    def lanes(self) -> Lanes:
        return Lanes(len(self.shard_of), self.total_batch, self.step_lanes, self.slot_lanes)

    def reads(self, lane: int) -> bool:
        """Whether positions of a lane may fall to this process: by their place in the step, or as the first of the epoch."""
        step, slot = divmod(lane, self.slot_lanes)
        shared = math.gcd(self.slot_lanes, self.world_size)
        return slot % shared == self.rank % shared or step == 0


class Lanes(NamedTuple):
    """How the positions of an epoch are dealt: by their step, and by their place in the step.

    Position p is in step ``p // total_batch``, at place ``p % total_batch``; its lane is ``step % step_lanes * slot_lanes +
    place % slot_lanes``.
    """

    count: int
    total_batch: int
    step_lanes: int
    slot_lanes: int

    def __len__(self) -> int:
        return self.step_lanes * self.slot_lanes

    def positions(self, lane: int) -> np.ndarray:
        """(n,) the positions of a lane, rising."""
        first_step, first_place = divmod(lane, self.slot_lanes)
        steps = np.arange(first_step * self.total_batch, self.count, self.step_lanes * self.total_batch)
        places = np.arange(first_place, self.total_batch, self.slot_lanes)
        positions = (steps[:, None] + places).ravel()
        return positions[: np.searchsorted(positions, self.count)]


def shard_order(
    shard_of: np.ndarray, lanes: Lanes, buffer: int, rng: np.random.Generator, wanted: Callable[[int], bool]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """An order in which every lane goes through a contiguous run of the shuffled shards.

    Args:
        shard_of: (N,) shard of each image, never falling.
        lanes: How N positions are dealt.
        buffer: Images of a run are mixed among as many neighbors.
        rng: Draws the order of shards and of images; a ``PCG64``, which can jump over draws.
        wanted: Lanes for which this is false are passed over; the others stay as they are.

    Yields:
        Positions of a lane (n,), and the images at them.
    """
    sizes = np.diff(np.searchsorted(shard_of, np.arange(shard_of[-1] + 2, dtype=shard_of.dtype)))  # else it is copied
    shuffled = np.argsort(rng.permutation(len(sizes)))
    ends = np.cumsum(sizes[shuffled])
    to_image = (np.cumsum(sizes) - sizes)[shuffled] - (ends - sizes[shuffled])  # what its place and its number differ by
    start = 0
    for lane in range(len(lanes)):
        positions = lanes.positions(lane)
        if wanted(lane):
            places = start + mixed(rng.random(len(positions)), buffer)
            yield positions, places + to_image[np.searchsorted(ends, places, side='right')]
        else:
            rng.bit_generator.advance(len(positions))
        start += len(positions)


def mixed(draws: np.ndarray, buffer: int) -> np.ndarray:
    """(n,) numbers 0 to n - 1, of which each ``buffer`` neighbors are in the order of their draws (n,)."""
    whole = len(draws) // buffer * buffer
    rows = draws[:whole].reshape(-1, buffer).argsort(axis=1, kind='stable')
    rows += np.arange(0, whole, buffer)[:, None]
    return np.concatenate((rows.ravel(), whole + draws[whole:].argsort(kind='stable')))
