"""Every epoch of every seed has an order of its own, also with samplers of other libraries, and old runs keep theirs."""

from __future__ import annotations

import logging
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from torch.utils.data import BatchSampler, DataLoader

from mmadclr.checkpoint import read_checkpoint
from mmadclr.datasets import EpochSampler
from mmadclr.datasets.samplers import order_seed
from mmadclr.engine import Runner
from mmadclr.engine.hooks import OrderHook

IMAGES = list(range(50))


def order(loader: DataLoader, seed: int, epoch: int, rank: int = 0, **randomness) -> list:
    """Images of an epoch as a run of that seed reads them; mmengine's ``runner.seed`` is that of the rank."""
    own = seed + rank if randomness.get('diff_rank_seed') else seed
    runner = SimpleNamespace(train_dataloader=loader, epoch=epoch, seed=own, rank=rank, _randomness_cfg=randomness)
    OrderHook().before_train_epoch(runner)
    return [index for batch in loader for index in batch.tolist()]


def repeated(seed):
    from mmpretrain.datasets import RepeatAugSampler

    return RepeatAugSampler(IMAGES, seed=seed)


KINDS = [
    lambda seed: DataLoader(IMAGES, 10, sampler=DefaultSampler(IMAGES, seed=seed)),
    lambda seed: DataLoader(IMAGES, batch_sampler=BatchSampler(DefaultSampler(IMAGES, seed=seed), 10, False)),
    pytest.param(lambda seed: DataLoader(IMAGES, 10, sampler=repeated(seed)), marks=pytest.mark.dense),
]


@pytest.mark.parametrize('loader', KINDS)
def test_no_two_seeds_of_other_libraries_samplers_go_through_the_same_orders(loader):
    orders = {tuple(order(loader(seed), seed, epoch)) for seed in range(6) for epoch in range(6)}
    assert len(orders) == 36
    plain = loader(0)
    plain.batch_sampler.sampler.set_epoch(3)
    expected = [index for batch in plain for index in batch.tolist()]
    assert order(loader(0), 0, 3) == expected  # those of seed 0 are the library's


@pytest.mark.parametrize('loader', KINDS)
def test_the_order_is_that_of_the_run_whatever_seed_the_sampler_drew(loader):
    """With ``diff_rank_seed``, mmengine's samplers draw a seed for all ranks, after who knows how many other draws."""
    expected = order(loader(2), 2, 5)
    for rank, drawn in ((0, 123456789), (0, 2**31 - 1), (3, 7)):
        assert order(loader(drawn), 2, 5, rank=rank, diff_rank_seed=True) == expected


def test_keys_keep_their_epoch_and_endless_samplers_their_order():
    ours = EpochSampler(IMAGES, seed=4)
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(sampler=ours), epoch=7, seed=4, rank=0, _randomness_cfg={})
    OrderHook().before_train_epoch(runner)
    assert {(key.seed, key.epoch) for key in ours} == {(4, 7)}
    endless, alone = InfiniteSampler(IMAGES, seed=4), InfiniteSampler(IMAGES, seed=4)
    runner.train_dataloader.sampler = endless
    OrderHook().before_train_epoch(runner)
    assert list(islice(endless, 70)) == list(islice(alone, 70))


# --- runs that began when orders were seeded by the sum of seed and epoch --------------------------------------------------

SETTINGS = {
    'randomness.seed': 3,
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 1,
    'train_cfg.max_epochs': 3,
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
}


class Seen(Hook):
    """The images of every epoch, in their order."""

    def __init__(self) -> None:
        self.images: dict[int, list[int]] = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.images.setdefault(runner.epoch, []).extend(data_batch['index'].tolist())


def seen(cfg) -> dict[int, list[int]]:
    runner, hook = Runner.from_cfg(cfg), Seen()
    runner.register_hook(hook)
    runner.train()
    return hook.images


def config(small_config, work_dir, **overrides):
    cfg = small_config({key: value for key, value in SETTINGS.items() if value is not None} | overrides, work_dir=work_dir)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    return cfg


def summed(seed: int, epoch: int) -> list[int]:
    return torch.randperm(12, generator=torch.Generator().manual_seed(seed + epoch)).tolist()


def mixed(seed: int, epoch: int) -> list[int]:
    return torch.randperm(12, generator=torch.Generator().manual_seed(order_seed(seed, epoch))).tolist()


@pytest.fixture
def old_run(small_config, monkeypatch, tmp_path):
    """Checkpoints of a run of before: other orders, and not a word about them."""
    with monkeypatch.context() as patch:
        patch.setattr('mmadclr.datasets.samplers.order_seed', lambda seed, epoch: seed + epoch)
        assert seen(config(small_config, 'old')) == {epoch: summed(3, epoch) for epoch in range(3)}
    for path in (tmp_path / 'old').glob('*.pth'):
        content = read_checkpoint(path)
        del content['position']['summed_order']
        torch.save(content, path)
    return tmp_path / 'old'


def test_an_epoch_that_was_begun_before_ends_in_its_order(small_config, old_run, tmp_path, caplog):
    resume = dict(resume=True, load_from=str(old_run / 'iter_4.pth'))
    with caplog.at_level(logging.INFO):
        found = seen(config(small_config, 'resumed', **resume))
    assert found == {1: summed(3, 1)[4:], 2: mixed(3, 2)}
    # and a run that stopped in that epoch once more still does
    again = dict(resume=True, load_from=str(tmp_path / 'resumed' / 'iter_5.pth'))
    assert seen(config(small_config, 'again', **again)) == {1: summed(3, 1)[8:], 2: mixed(3, 2)}
    # but not one that stopped in the next
    later = dict(resume=True, load_from=str(tmp_path / 'resumed' / 'iter_7.pth'))
    assert seen(config(small_config, 'later', **later)) == {2: mixed(3, 2)[4:]}


def test_an_epoch_that_was_not_begun_before_has_its_new_order(small_config, old_run):
    resume = dict(resume=True, load_from=str(old_run / 'iter_3.pth'))
    assert seen(config(small_config, 'resumed', **resume)) == {epoch: mixed(3, epoch) for epoch in (1, 2)}


def test_a_run_of_today_goes_on_in_its_order(small_config, tmp_path):
    assert seen(config(small_config, 'new')) == {epoch: mixed(3, epoch) for epoch in range(3)}
    resume = dict(resume=True, load_from=str(tmp_path / 'new' / 'iter_4.pth'))
    assert seen(config(small_config, 'resumed', **resume)) == {1: mixed(3, 1)[4:], 2: mixed(3, 2)}
    start = dict(load_from=str(tmp_path / 'new' / 'iter_4.pth'))  # weights alone, for a run of its own
    assert seen(config(small_config, 'started', **start))[1] == mixed(3, 1)
