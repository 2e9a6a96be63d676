"""Losses are fetched when they are written, and the step itself never waits for the device."""

import json
import math

import pytest
import torch
from counters import CallCounter
from mmengine.hooks import Hook

from mmadclr.engine import Runner
from mmadclr.engine.hooks import LossRecordHook


def records(runner):
    return [json.loads(line) for line in open(f'{runner.log_dir}/vis_data/scalars.json')]


def run(cfg, *hooks):
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook, priority='LOWEST')
    runner.train()
    return runner


def test_late_records_are_those_of_every_iteration(small_config):
    """Smoothed losses in the log are the same whether losses are fetched in every iteration or in every third."""
    logs = []
    for name, every in (('often', True), ('late', False)):
        cfg = small_config({'default_hooks.logger.interval': 3, 'train_cfg.val_interval': 9}, work_dir=name)
        runner = Runner.from_cfg(cfg)
        hook = next(hook for hook in runner.hooks if isinstance(hook, LossRecordHook))
        if every:
            before_train = hook.before_train
            hook.before_train = lambda r, hook=hook, old=before_train: (old(r), setattr(hook, 'intervals', [1]))
        runner.train()
        logs.append([{k: v for k, v in line.items() if 'loss' in k or k == 'step'} for line in records(runner)])
    assert logs[0] == logs[1]
    assert [line['step'] for line in logs[0] if 'loss' in line] == [3, 6]


class CountSyncs(Hook):
    """Counts what waits for the device from the end of the loss to the end of the hooks of an iteration."""

    def __init__(self):
        self.counts = []

    def before_train(self, runner):
        update = runner.optim_wrapper.update_params

        def counted(*args, **kwargs):
            with CallCounter() as counter:
                update(*args, **kwargs)
            self.counts.append(counter.syncs)

        runner.optim_wrapper.update_params = counted


def test_backward_optimizer_and_updates_never_wait_for_the_device(small_config):
    """Clipping, AdamW, centres and teacher."""
    hook = CountSyncs()
    run(small_config({'optim_wrapper.max_norm': 1.0}), hook)
    assert hook.counts == [[]] * 6


def test_losses_never_wait_for_the_device(small_config):
    runner = Runner.from_cfg(small_config())
    data = next(iter(runner.build_dataloader(runner._train_dataloader, seed=0)))
    views = runner.model.data_preprocessor(data, True)['views']
    with CallCounter() as counter:
        runner.model.loss(**views)
    assert counter.syncs == []


def test_hook_fetches_at_the_interval_alone(small_config):
    cfg = small_config({'default_hooks.logger.interval': 3, 'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 9})
    runner = Runner.from_cfg(cfg)
    hook = next(hook for hook in runner.hooks if isinstance(hook, LossRecordHook))
    pending, after = [], hook.after_train_iter

    def watched(*args, **kwargs):
        with CallCounter() as counter:
            after(*args, **kwargs)
        pending.append((len(hook.pending), counter.syncs))

    hook.after_train_iter = watched
    runner.train()
    assert pending == [(1, []), (2, []), (0, [])]  # what is fetched leaves as one list, which is no operation of torch


class Poison(Hook):
    """Breaks the student in one iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            with torch.no_grad():
                runner.model.student.backbone.cls_token.fill_(math.nan)


def test_first_loss_that_is_not_finite_is_named_at_the_interval(small_config):
    cfg = small_config({'default_hooks.logger.interval': 3})
    with pytest.raises(FloatingPointError, match=r'loss, loss_cls.* not finite at iteration 1 .*images \['):
        run(cfg, Poison(1))


def test_nothing_is_saved_after_a_loss_that_is_not_finite(small_config, tmp_path):
    checkpoint = dict(type='CheckpointHook', interval=2, by_epoch=False)
    cfg = small_config({'default_hooks.logger.interval': 100, 'default_hooks.checkpoint': checkpoint})
    with pytest.raises(FloatingPointError, match='not finite at iteration 2'):
        run(cfg, Poison(2))
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['iter_2.pth']
