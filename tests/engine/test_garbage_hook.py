"""Garbage is collected when the hook says so, and as ever before, after and beside training."""

import gc
import os

import pytest
from mmengine.hooks import Hook

from mmadclr.config.check import check_config
from mmadclr.engine import Runner
from mmadclr.engine.hooks import GarbageCollectionHook

EVERY = {'default_hooks.garbage': dict(type='GarbageCollectionHook', interval=2)}


@pytest.fixture
def collections():
    """Iteration and generation of every collection, where ``iteration`` is set; automatic ones come often."""
    log, thresholds = Log(), gc.get_threshold()
    gc.callbacks.append(log)
    gc.set_threshold(50, 5, 5)
    yield log
    gc.set_threshold(*thresholds)
    gc.callbacks.remove(log)


class Log:
    def __init__(self):
        self.iteration, self.seen = None, []

    def __call__(self, phase, info):
        if phase == 'start' and self.iteration is not None:
            self.seen.append((self.iteration, info['generation']))


class Watch(Hook):
    """Makes garbage in every iteration, whose number the log learns, and may end the run."""

    priority = 'VERY_LOW'

    def __init__(self, log, fails_at=None):
        self.log, self.fails_at = log, fails_at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.log.iteration = runner.iter + 1
        cycles = [[] for _ in range(500)]
        for cycle in cycles:
            cycle.append(cycle)
        if self.log.iteration == self.fails_at:
            raise RuntimeError('the end')

    def after_train_epoch(self, runner):
        self.log.iteration = None


def run(small_config, log, settings=EVERY, **kwargs):
    runner = Runner.from_cfg(small_config(settings))
    runner.register_hook(Watch(log, **kwargs))
    try:
        runner.train()
    finally:
        log.iteration = None


def test_collections_happen_at_the_interval_and_not_between(small_config, collections):
    """Two epochs of three iterations, an evaluation after the second."""
    run(small_config, collections)
    assert collections.seen == [(2, 2), (4, 2), (6, 2)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_without_the_hook_python_collects_in_every_iteration(small_config, collections):
    """What the test above counts is there to be counted."""
    run(small_config, collections, settings=None)
    assert {iteration for iteration, _ in collections.seen} == set(range(1, 7))


def test_state_is_restored_when_training_raises(small_config, collections):
    with pytest.raises(RuntimeError, match='the end'):
        run(small_config, collections, fails_at=4)
    assert [seen for seen in collections.seen if seen[0] < 4] == [(2, 2)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_what_was_off_before_stays_off(small_config, collections):
    gc.disable()
    try:
        run(small_config, collections)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_evaluations_collect_as_ever(small_config, collections):
    hook = GarbageCollectionHook(100)
    hook.before_train(None)
    assert not gc.isenabled()
    hook.before_val_epoch(None)
    assert gc.isenabled()
    hook.after_val_epoch(None)
    assert not gc.isenabled()
    hook.leave_training(None)
    hook.after_val_epoch(None)  # of a run that only evaluates
    assert gc.isenabled()
    settings = {'default_hooks.garbage': dict(type='GarbageCollectionHook'), 'train_cfg.val_interval': 1}
    run(small_config, collections, settings)
    assert not collections.seen  # off again after the evaluation of the first epoch


def test_workers_collect_as_ever():
    """A forked process starts with what its parent had before training."""
    hook = GarbageCollectionHook()
    hook.before_train(None)
    child = os.fork()
    if child == 0:
        os._exit(17 if gc.isenabled() else 18)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    assert not gc.isenabled()
    hook.leave_training(None)
    assert gc.isenabled()


def test_it_is_known_to_configs_and_refuses_impossible_intervals(small_config):
    check_config(small_config(EVERY))
    assert 'garbage' not in small_config().default_hooks  # off by default
    with pytest.raises(ValueError, match='interval=0 of GarbageCollectionHook must be at least 1'):
        GarbageCollectionHook(0)
