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
    """Clipping, AdamW, centers and teacher."""
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


def test_weights_that_are_not_finite_end_the_run_at_the_interval(small_config):
    cfg = small_config({'default_hooks.logger.interval': 3})
    message = r'cls_token: weights are not finite .*; loss, loss_cls.* not finite at iteration 1 .*images \['
    with pytest.raises(FloatingPointError, match=message):
        run(cfg, Poison(1))


def test_no_checkpoint_is_written_with_weights_that_are_not_finite(small_config, tmp_path):
    checkpoint = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 2}
    cfg = small_config({'default_hooks.logger.interval': 100, **checkpoint})
    with pytest.raises(FloatingPointError, match=r'not finite at iteration 2.* the last good checkpoint is .*iter_2\.pth'):
        run(cfg, Poison(2))
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['iter_2.pth']


def test_weights_that_break_after_the_last_loss_are_not_saved(small_config, tmp_path):
    """All losses are finite: the check is that of the weights alone."""

    class Break(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 1:
                with torch.no_grad():
                    runner.model.loss_query.center[0] = math.inf

    checkpoint = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 2}
    runner = Runner.from_cfg(small_config(checkpoint))
    runner.register_hook(Break(), priority='NORMAL')
    with pytest.raises(FloatingPointError, match=r'^loss_query\.center: weights are not finite after iteration 1'):
        runner.train()
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_without_skipping_a_loss_that_is_not_finite_ends_the_run(small_config):
    cfg = small_config({'default_hooks.logger.interval': 3})
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Poison(1), priority='LOWEST')
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    del runner.optim_wrapper.skipped, runner.optim_wrapper.optimizer.found_inf
    runner.optim_wrapper.step = runner.optim_wrapper.optimizer.step
    with pytest.raises(FloatingPointError, match='finite at iteration 1 .*, and SelfDistillationOptimWrapper does not skip'):
        runner.train()


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match='max_skipped=0 of LossRecordHook'):
        LossRecordHook(max_skipped=0)
