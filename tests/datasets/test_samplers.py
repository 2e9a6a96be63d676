"""The order of tar shards: every image once an epoch, alike for any split, and every worker on shards of its own."""

from types import SimpleNamespace

import mmengine.dataset.sampler as mmengine_sampler
import numpy as np
import pytest
import torch
from shards import write_shards
from torch.utils.data import DataLoader

from mmadclr.datasets import EpochSampler, ImageDataset, ShardSampler, collate_samples
from mmadclr.datasets.run_loaders import check_workers, warn_of_scattered_reads
from mmadclr.datasets.samplers import (
    Lanes,
    order_seed,
    shard_order,
)

SHARDS, PER_SHARD = 40, 25
SPLITS = [(1, 16, 4), (2, 16, 4), (4, 4, 8), (3, 12, 4), (6, 12, 4), (8, 8, 4)]  # processes, total batch, lanes


def reference_lanes(count, total_batch, step_lanes, slot_lanes):
    steps, slots = np.divmod(np.arange(count), total_batch)
    return (steps % step_lanes) * slot_lanes + slots % slot_lanes


def reference_order(shard_of, lanes, buffer, rng):
    """All at once, by sorting everything."""
    shards = rng.permutation(int(shard_of.max()) + 1)
    sequence = np.argsort(shards[shard_of], kind='stable')
    by_lane = np.argsort(lanes, kind='stable')
    lengths = np.bincount(lanes)
    places = np.arange(len(lanes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    order = np.empty_like(sequence)
    order[by_lane] = sequence[np.lexsort((rng.random(len(lanes)), places // buffer, lanes[by_lane]))]
    return order


class Images:
    """1000 images in 40 shards, of which only the numbers matter."""

    def __init__(self, shard_of=None):
        shard_of = np.repeat(np.arange(SHARDS), PER_SHARD) if shard_of is None else shard_of
        self.source = SimpleNamespace(shard_of=shard_of)

    def __len__(self):
        return len(self.source.shard_of)


def sampler(monkeypatch, rank=0, world_size=1, total=16, epoch=0, seed=0, dataset=None, **kwargs):
    monkeypatch.setattr(mmengine_sampler, 'get_dist_info', lambda: (rank, world_size))
    kwargs = dict(shuffle_buffer=10, slot_lanes=4, step_lanes=2) | kwargs
    built = ShardSampler(dataset or Images(), batch_size=total // world_size, seed=seed, **kwargs)
    built.set_epoch(epoch)
    return built


def indices(*args, **kwargs):
    return [key.index for key in sampler(*args, **kwargs)]


@pytest.mark.parametrize('count', [1, 5, 37, 1000])
@pytest.mark.parametrize(
    ('world_size', 'total', 'lanes'), [(1, 16, 4), (2, 16, 4), (4, 4, 8), (3, 12, 4), (6, 12, 4), (8, 8, 4)]
)
@pytest.mark.parametrize('shard_sizes', [1, 10, None])
def test_orders_equal_those_of_sorting_everything(monkeypatch, count, world_size, total, lanes, shard_sizes):
    rng = np.random.default_rng(count)
    shard_of = np.sort(rng.integers(0, 40, count)) if shard_sizes is None else np.arange(count) // shard_sizes
    whole = reference_order(shard_of, reference_lanes(count, total, 2, lanes), 10, np.random.default_rng((5, 2)))
    padded = np.resize(whole, -(-count // world_size) * world_size).tolist()
    for rank in range(world_size):
        found = indices(monkeypatch, rank, world_size, total, 2, 5, Images(shard_of), slot_lanes=lanes)
        assert found == padded[rank::world_size]


@pytest.mark.parametrize('count', [1, 7, 16, 999, 1000])
@pytest.mark.parametrize('world_size', [1, 2, 4])
def test_every_image_comes_once_an_epoch(monkeypatch, count, world_size):
    dataset = Images(np.arange(count) // PER_SHARD)
    ranks = [indices(monkeypatch, rank, world_size, dataset=dataset) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    joint = [rank[i] for i in range(len(ranks[0])) for rank in ranks]
    assert sorted(joint[:count]) == list(range(count))
    assert joint[count:] == joint[: len(joint) - count]  # what fills up the last round


def test_the_order_depends_on_the_total_batch_alone(monkeypatch):
    single = indices(monkeypatch)
    for world_size in (2, 4, 8):
        ranks = [indices(monkeypatch, rank, world_size) for rank in range(world_size)]
        assert [index for step in zip(*ranks, strict=True) for index in step] == single


def test_seeds_and_epochs_differ_and_repeat(monkeypatch):
    first = indices(monkeypatch)
    assert indices(monkeypatch) == first
    assert indices(monkeypatch, epoch=1) != first
    assert indices(monkeypatch, seed=1) != first
    keys = list(sampler(monkeypatch, seed=3, epoch=5))[:2]
    assert [(key.seed, key.epoch) for key in keys] == [(3, 5)] * 2


@pytest.mark.parametrize('kind', [EpochSampler, ShardSampler])
def test_no_two_seeds_go_through_the_same_orders(kind):
    orders = set()
    for seed in range(6):
        built = kind(Images(), seed=seed, **({'batch_size': 4} if kind is ShardSampler else {}))
        for epoch in range(6):
            built.set_epoch(epoch)
            orders.add(tuple(key.index for key in built))
    assert len(orders) == 36
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(1000))}


def test_seeds_of_orders_keep_their_distance():
    """Two seeds share an order where their first ones lie fewer epochs apart than the runs last, in either direction."""
    first = [order_seed(seed, 0) for seed in range(1001)]
    assert first[0] == 0
    assert min(min(number, 2**32 - number) for number in first[1:]) > 10**6
    assert [order_seed(5, epoch) - order_seed(5, 0) for epoch in (0, 1, 800)] == [0, 1, 800]
    for seed, epoch in ((2**31 - 1, 0), (2**40, 7), (12345, 10**6)):  # torch's generator takes the lower 32 bits alone
        assert 0 <= order_seed(seed, epoch) < 2**32


@pytest.mark.parametrize('world_size', [1, 2, 3])
@pytest.mark.parametrize('count', [1, 2, 7, 1000])
@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('round_up', [True, False])
def test_orders_of_seed_0_and_of_old_epochs_are_those_of_mmengine(monkeypatch, count, world_size, round_up, shuffle):
    for rank, seed in [*((rank, 0) for rank in range(world_size)), (0, 3)]:
        monkeypatch.setattr(mmengine_sampler, 'get_dist_info', lambda rank=rank: (rank, world_size))
        theirs, ours = (
            kind(list(range(count)), shuffle=shuffle, seed=seed, round_up=round_up)
            for kind in (mmengine_sampler.DefaultSampler, EpochSampler)
        )
        ours.summed_epoch = 4 if seed else None
        for built in (theirs, ours):
            built.set_epoch(4)
        assert [key.index for key in ours] == list(theirs)


@pytest.mark.parametrize(('world_size', 'workers'), [(1, 2), (2, 1), (2, 2), (4, 2)])
def test_every_worker_reads_shards_of_its_own(monkeypatch, world_size, workers):
    readers = []
    for rank in range(world_size):
        batch = 16 // world_size
        numbers = np.array(indices(monkeypatch, rank, world_size))
        steps = np.arange(len(numbers)) // batch
        readers += [set(numbers[steps % workers == worker] // PER_SHARD) for worker in range(workers)]
    # A run may begin and end inside a shard, which its neighbor then reads, too: 8 lanes make 7 such places.
    assert sum(len(shards) for shards in readers) <= SHARDS + 7
    assert max(len(shards) for shards in readers) <= SHARDS / (world_size * workers) + 8 / (world_size * workers) + 1


def test_a_lane_reads_nearly_from_front_to_back(monkeypatch):
    numbers = np.array(indices(monkeypatch))
    lanes = reference_lanes(len(numbers), 16, 2, 4)
    for lane in range(8):
        run = numbers[lanes == lane]
        shards = run // PER_SHARD
        for start in range(0, len(run), 10):  # within the buffer two shards mix at most
            assert len(set(shards[start : start + 10])) <= 2
        assert list(run) != sorted(run)


def test_images_are_mixed_within_the_buffer_and_shards_over_the_epoch():
    shard_of = np.repeat(np.arange(SHARDS), PER_SHARD)
    lanes = Lanes(len(shard_of), 1, 1, 1)
    (_, plain), (_, mixed) = (
        next(shard_order(shard_of, lanes, buffer, np.random.default_rng(0), lambda lane: True)) for buffer in (1, 1000)
    )
    assert (plain.reshape(SHARDS, PER_SHARD) % PER_SHARD == np.arange(PER_SHARD)).all()
    assert plain.tolist() != list(range(1000))
    assert abs(np.corrcoef(mixed, np.arange(1000))[0, 1]) < 0.1


def test_unequal_shards(monkeypatch):
    shard_of = np.sort(np.random.default_rng(0).integers(0, 9, 333) ** 2)
    assert sorted(indices(monkeypatch, dataset=Images(shard_of))) == list(range(333))


def test_without_shuffling_the_order_is_that_of_the_data(monkeypatch):
    assert indices(monkeypatch, shuffle=False) == list(range(1000))


def test_bad_arguments_are_explained(monkeypatch):
    with pytest.raises(ValueError, match=r"the data set has no shards; set its shards='\*\.tar'"):
        ShardSampler([1, 2, 3], batch_size=1)
    with pytest.raises(ValueError, match='batch_size is missing'):
        ShardSampler(Images())
    with pytest.raises(ValueError, match='shuffle_buffer=0 must be at least 1'):
        ShardSampler(Images(), batch_size=1, shuffle_buffer=0)


def test_sharing_of_shards_is_said(monkeypatch):
    said = []
    monkeypatch.setattr('mmadclr.datasets.samplers.print_log', lambda message, *_: said.append(message))
    sampler(monkeypatch, 0, 2)
    assert said == []
    sampler(monkeypatch, 0, 3, total=15)
    assert said == ['ShardSampler: slot_lanes=4 is not a multiple of 3 processes, so several read the same shards']


def test_workers_that_share_shards_and_scattered_reads_are_said(monkeypatch):
    said = []
    monkeypatch.setattr('mmadclr.datasets.run_loaders.print_log', lambda message, *_: said.append(message))
    check_workers(dict(num_workers=4, sampler=dict(type='ShardSampler')))
    check_workers(dict(num_workers=0, sampler=dict(type='ShardSampler', step_lanes=3)))
    warn_of_scattered_reads(SimpleNamespace(dataset=Images(), sampler=EpochSampler(Images(), shuffle=False)))
    warn_of_scattered_reads(SimpleNamespace(dataset=Images(), sampler=ShardSampler(Images(), batch_size=2)))
    assert said == []
    check_workers(dict(num_workers=3, sampler=dict(type='ShardSampler')))
    warn_of_scattered_reads(SimpleNamespace(dataset=Images(), sampler=EpochSampler(Images())))
    assert said == [
        'ShardSampler: step_lanes=16 is not a multiple of 3 workers, so several read the same shards',
        "EpochSampler reads shards in random order; use sampler.type='ShardSampler' to read them almost sequentially",
    ]


def test_samples_of_shards_do_not_depend_on_workers(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    crops = dict(type='MultiCrop', global_size=16, local_size=8, query_size=8, num_local=2, num_query=2)
    dataset = ImageDataset(write_shards(tmp_path / 'shards'), crops, shards='*.tar')
    order = sampler(monkeypatch, total=4, dataset=dataset)
    dataset[0]  # opens a file that the workers must not share
    alone, workers = (
        list(DataLoader(dataset, 4, sampler=order, num_workers=number, collate_fn=collate_samples)) for number in (0, 2)
    )
    assert sorted(torch.cat([batch['index'] for batch in alone]).tolist()) == list(range(12))
    for a, b in zip(alone, workers, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a if torch.is_tensor(a[name]))


class CountedReads(Images):
    """Images that count how often they are asked for."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __getitem__(self, key):
        self.reads += 1
        return key.index


@pytest.mark.parametrize('kind', [EpochSampler, ShardSampler])
def test_a_run_that_goes_on_leaves_out_what_it_had_without_reading_it(kind):
    images = CountedReads()
    built = kind(images, seed=3, **({'batch_size': 4} if kind is ShardSampler else {}))
    whole = [key.index for key in built]
    built.skip(984)
    loader = DataLoader(images, batch_size=4, sampler=built)
    assert [index for batch in loader for index in batch.tolist()] == whole[984:]
    assert images.reads == 16
    assert len(loader) == 250
    assert [key.index for key in built] == whole  # the next pass is a whole one
