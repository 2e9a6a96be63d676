"""Hooks that keep a pretraining run correct: teacher, randomness, readable files, throughput."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from mmengine import dist
from mmengine.hooks import Hook

from mmadclr.datasets.image_dataset import UnreadableImageError
from mmadclr.models.wrappers import unwrapped
from mmadclr.registry import HOOKS


@HOOKS.register_module()
class TeacherUpdateHook(Hook):
    """Moves teacher and centres after every *optimizer* step, also when gradients of several batches accumulate."""

    def before_train(self, runner) -> None:
        model = unwrapped(runner.model)
        self.handle = runner.optim_wrapper.optimizer.register_step_post_hook(lambda *_: model.after_step())

    def after_train(self, runner) -> None:
        self.handle.remove()


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds torch at the start of every epoch from (seed, epoch, rank): a resumed run drops the same paths."""

    priority = 'HIGH'

    def before_train_epoch(self, runner) -> None:
        key = f'{runner.seed}/{runner.epoch}/{runner.rank}'.encode()
        torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], 'big'))


@HOOKS.register_module()
class UnreadableImageHook(Hook):
    """Accounts for images that could not be read: one line each, a count per epoch, an end when there are too many.

    Of images that only the slow decoder could read, the first few get a line each, and all are counted.

    Args:
        max_unreadable: Number of distinct unreadable images above which training stops.
    """

    max_slow_lines = 10

    def __init__(self, max_unreadable: int = 100) -> None:
        self.max_unreadable = max_unreadable
        self.seen: set[str] = set()
        self.seen_slow: set[str] = set()

    def before_train_epoch(self, runner) -> None:
        self.in_epoch: set[str] = set()
        self.slow_in_epoch = 0

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.in_epoch.update(data_batch['unreadable'])
        self._report(runner, data_batch['unreadable'])
        self.slow_in_epoch += len(data_batch['fallbacks'])
        for message in data_batch['fallbacks']:
            if message not in self.seen_slow and len(self.seen_slow) < self.max_slow_lines:
                self.seen_slow.add(message)
                runner.logger.warning(f'slow decoding: {message}')

    def after_train_epoch(self, runner) -> None:
        # Loggers of other processes than the first are silent, so theirs are told here.
        unreadable, slow = zip(*dist.all_gather_object((self.in_epoch, self.slow_in_epoch)), strict=True)
        everywhere = sorted(set().union(*unreadable))
        self._report(runner, everywhere)
        if everywhere:
            runner.logger.warning(f'epoch {runner.epoch + 1}: {len(everywhere)} unreadable images were replaced')
        if sum(slow):
            runner.logger.warning(f'epoch {runner.epoch + 1}: {sum(slow)} images took the slow decoder')

    def _report(self, runner, messages: Iterable[str]) -> None:
        for message in messages:
            if message not in self.seen:
                self.seen.add(message)
                runner.logger.warning(f'unreadable image, replaced by the next one: {message}')
            if len(self.seen) > self.max_unreadable:
                raise UnreadableImageError(
                    f'{len(self.seen)} images cannot be read, more than max_unreadable={self.max_unreadable}; repair or '
                    f'remove them, or raise the limit of UnreadableImageHook. The last one: {message}'
                )


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Adds images per second, over all processes, to the log."""

    priority = 55  # after IterTimerHook (50), which measures, and before LoggerHook (60), which prints

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        seconds = runner.message_hub.get_scalar('train/time').mean(runner.log_processor.window_size)
        images = len(data_batch['index']) * runner.world_size
        runner.message_hub.update_scalar('train/images_per_s', images / seconds)
