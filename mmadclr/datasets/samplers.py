"""Samplers: keys that pass seed and epoch to workers, and a shard-aware order for tar shards."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import print_log

from mmadclr.annotations import MaybeNone
from mmadclr.registry import DATA_SAMPLERS

STEP_LANES = 16
CHUNK = 1 << 16  # keys created at a time
SEED_STRIDE = 0x9E3779B1  # odd; 2**32 divided by the golden ratio, so that its multiples are far from each other and from 0


class SampleKey(NamedTuple):
    """Everything that a random sample depends on."""

    seed: int
    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index


def order_seed(seed: int, epoch: int) -> int:
    """32-bit seed of the order of an epoch (torch's CPU generator uses 32 bits).

    mmengine and mmpretrain add epoch and seed, so a run repeats the orders of the run with the next seed, shifted by one
    epoch. Here, seeds that differ by up to 1000 share no order within a million epochs. Seed 0 gives the same orders as
    mmengine.
    """
    return (seed * SEED_STRIDE + epoch) % 2**32


@DATA_SAMPLERS.register_module()
class EpochSampler(DefaultSampler):
    """mmengine's sampler with keys ``(seed, epoch, index)``, so that persistent workers know the epoch of a sample.

    The seed is the runner's and affects both order and augmentation; different seeds have different orders
    (``order_seed``).

    Attributes:
        summed_epoch: Epoch whose order is seeded by the sum of seed and epoch, as in older versions, so that an epoch
            started by one finishes in its order (``EpochSeedHook``).
    """

    left_out = 0
    summed_epoch: int | None = None

    def skip(self, count: int) -> None:
        """Skips the first ``count`` samples of this process in the next pass, which a resumed run has already seen."""
        self.left_out = count

    def __iter__(self) -> Iterator[SampleKey]:
        start, self.left_out = self.left_out, 0
        seed, epoch, images = self.seed, self.epoch, self.images()[start:]
        chunks = (images[first : first + CHUNK].tolist() for first in range(0, len(images), CHUNK))
        return (SampleKey(seed, epoch, index) for chunk in chunks for index in chunk)

    def images(self) -> np.ndarray:
        """(n,) images of this process, in the order of the epoch: every ``world_size``-th position."""
        if not self.shuffle:
            return self._rounded_up(np.arange(self.rank, len(self.dataset), self.world_size), np.arange(self.world_size))
        summed = self.epoch == self.summed_epoch
        seed = self.seed + self.epoch if summed else order_seed(self.seed, self.epoch)
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(seed)).numpy()
        return self._rounded_up(order[self.rank :: self.world_size], order[: self.world_size])

    def _rounded_up(self, images: np.ndarray, first: np.ndarray) -> np.ndarray:
        """The images of this process, followed by padding from the ``first`` images of the epoch.

        Copied with the smallest dtype, because it is kept for an epoch.
        """
        positions = np.arange(self.rank + len(images) * self.world_size, self.total_size, self.world_size)
        repeated = first[positions % len(self.dataset)]
        return np.concatenate((images, repeated), dtype=self._dtype(), casting='same_kind')

    def _dtype(self) -> type[np.integer]:
        return np.int32 if len(self.dataset) <= np.iinfo(np.int32).max else np.int64


@DATA_SAMPLERS.register_module()
class ShardSampler(EpochSampler):
    """An order in which every process and worker reads its own shards almost sequentially.

    The epoch is one sequence over all processes, with ``batch_size x processes`` positions per step. Positions are assigned
    to lanes by step and by place in the step; each lane reads a contiguous range of the shuffled shards, shuffled within
    ``shuffle_buffer`` images. A process takes every ``processes``-th position and a worker every ``workers``-th step, so
    they share no lane (and shards only at range boundaries) if their numbers divide ``slot_lanes`` and ``step_lanes``.
    Every image occurs once per epoch, except for padding of the last round of processes; the order depends only on seed,
    epoch and total batch size.

    Args:
        dataset: An ``ImageDataset`` with ``shards``.
        batch_size: Per process; set by the runner.
        shuffle: If False, the order is that of the data set, and lanes are ignored.
        seed: The runner's.
        round_up: Pad so that every process gets the same number of images.
        shuffle_buffer: Number of neighboring images that are shuffled together.
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
        self.shard_of: np.ndarray | MaybeNone = getattr(getattr(dataset, 'source', None), 'shard_of', None)
        if self.shard_of is None:
            raise ValueError("ShardSampler: the data set has no shards; set its shards='*.tar', or use EpochSampler")
        if batch_size is None:
            raise ValueError('ShardSampler: batch_size is missing; set it to that of the data loader (images per process)')
        numbers = dict(batch_size=batch_size, shuffle_buffer=shuffle_buffer, slot_lanes=slot_lanes, step_lanes=step_lanes)
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f'ShardSampler: {name}={number} must be at least 1')
        self.total_batch = batch_size * self.world_size
        self.shuffle_buffer, self.slot_lanes, self.step_lanes = shuffle_buffer, slot_lanes, step_lanes
        if shuffle and slot_lanes % self.world_size:
            print_log(
                f'ShardSampler: slot_lanes={slot_lanes} is not a multiple of {self.world_size} processes, so several '
                'read the same shards',
                'current',
                logging.WARNING,
            )

    def images(self) -> np.ndarray:
        if not self.shuffle:
            return super().images()
        images = np.empty(len(range(self.rank, len(self.shard_of), self.world_size)), dtype=self._dtype())
        first = np.empty(self.world_size, dtype=self._dtype())  # of all processes, for padding
        rng = np.random.default_rng((self.seed, self.epoch))
        for positions, found in shard_order(self.shard_of, self.lanes(), self.shuffle_buffer, rng, self.reads):
            mine, early = positions % self.world_size == self.rank, positions < self.world_size
            images[positions[mine] // self.world_size] = found[mine]
            first[positions[early]] = found[early]
        return self._rounded_up(images, first)

    def lanes(self) -> Lanes:
        return Lanes(len(self.shard_of), self.total_batch, self.step_lanes, self.slot_lanes)

    def reads(self, lane: int) -> bool:
        """Whether positions of a lane may belong to this process, by place in the step or as padding."""
        step, slot = divmod(lane, self.slot_lanes)
        shared = math.gcd(self.slot_lanes, self.world_size)
        return slot % shared == self.rank % shared or step == 0


class Lanes(NamedTuple):
    """Assignment of the positions of an epoch to lanes, by step and place in the step.

    Position p is in step ``p // total_batch``, at place ``p % total_batch``; its lane is ``step % step_lanes * slot_lanes +
    place % slot_lanes``.
    """

    images: int
    total_batch: int
    step_lanes: int
    slot_lanes: int

    def __len__(self) -> int:
        return self.step_lanes * self.slot_lanes

    def positions(self, lane: int) -> np.ndarray:
        """(n,) positions of a lane, ascending."""
        first_step, first_place = divmod(lane, self.slot_lanes)
        steps = np.arange(first_step * self.total_batch, self.images, self.step_lanes * self.total_batch)
        places = np.arange(first_place, self.total_batch, self.slot_lanes)
        positions = (steps[:, None] + places).ravel()
        return positions[: np.searchsorted(positions, self.images)]


def shard_order(
    shard_of: np.ndarray, lanes: Lanes, buffer: int, rng: np.random.Generator, wanted: Callable[[int], bool]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """An order in which every lane reads a contiguous range of the shuffled shards.

    Args:
        shard_of: (N,) shard of each image, non-decreasing.
        lanes: Assignment of the N positions.
        buffer: Number of neighboring images that are shuffled together.
        rng: Draws the order of shards and images; a ``PCG64``, which can skip draws.
        wanted: Lanes for which this is False are skipped, without affecting the others.

    Yields:
        Positions of a lane (n,), and the images at them.
    """
    sizes = np.diff(
        np.searchsorted(shard_of, np.arange(shard_of[-1] + 2, dtype=shard_of.dtype))
    )  # same dtype, to avoid a copy
    shuffled = np.argsort(rng.permutation(len(sizes)))
    ends = np.cumsum(sizes[shuffled])
    to_image = (np.cumsum(sizes) - sizes)[shuffled] - (ends - sizes[shuffled])  # offset from place to image index
    start = 0
    for lane in range(len(lanes)):
        positions = lanes.positions(lane)
        if wanted(lane):
            places = start + mixed(rng.random(len(positions)), buffer)
            yield positions, places + to_image[np.searchsorted(ends, places, side='right')]
        else:
            rng.bit_generator.advance(len(positions))  # type: ignore[attr-defined]  # a PCG64
        start += len(positions)


def mixed(draws: np.ndarray, buffer: int) -> np.ndarray:
    """(n,) permutation of 0 to n - 1, shuffled within blocks of ``buffer`` by the given draws (n,)."""
    full = len(draws) // buffer * buffer
    rows = draws[:full].reshape(-1, buffer).argsort(axis=1, kind='stable')
    rows += np.arange(0, full, buffer)[:, None]
    return np.concatenate((rows.ravel(), full + draws[full:].argsort(kind='stable')))
