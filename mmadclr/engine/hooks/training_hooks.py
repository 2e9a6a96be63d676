"""Hooks for pretraining: teacher, random seeds, unreadable images, throughput."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine import dist
from mmengine.hooks import Hook, LoggerHook

from mmadclr.datasets.accounts import ListFile, LostAccount, UnreadableAccount
from mmadclr.datasets.image_dataset import UnreadableImageError
from mmadclr.datasets.samplers import EpochSampler, order_seed
from mmadclr.registry import HOOKS


@HOOKS.register_module()
class TeacherUpdateHook(Hook):
    """No-op for older configs: the optimizer step now updates the teacher (``SelfDistillationOptimWrapper.step``)."""

    def before_train(self, runner) -> None:
        runner.logger.info('TeacherUpdateHook no longer has any effect; remove it from default_hooks')


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds torch at the start of every epoch from (seed, epoch, rank), so that a resumed run drops the same paths.

    Checkpoints record how the order of their epoch is seeded. Checkpoints without this record date from when the seed was
    the sum of seed and epoch: a run resumed in the middle of such an epoch keeps its old order, so that no image is
    repeated.
    """

    priority = 'HIGH'

    def before_train_epoch(self, runner) -> None:
        key = f'{runner.seed}/{runner.epoch}/{runner.rank}'.encode()
        torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], 'big'))

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        sampler = runner.train_dataloader.sampler
        if 'position' in checkpoint and isinstance(sampler, EpochSampler):
            checkpoint['position']['summed_order'] = sampler.summed_epoch == checkpoint['position']['epoch']

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        position, sampler = checkpoint.get('position'), runner.train_dataloader.sampler if runner._resume else None
        if position and position['batch'] and position.get('summed_order', True) and isinstance(sampler, EpochSampler):
            sampler.summed_epoch = position['epoch']
            if sampler.seed and sampler.shuffle:
                runner.logger.info(f'epoch {position["epoch"] + 1} finishes in the order of the older version')


@HOOKS.register_module()
class OrderHook(Hook):
    """Gives every (seed, epoch) its own order with samplers that shuffle by the sum of seed and epoch.

    The samplers of mmengine, mmdet and mmpretrain do so. This hook replaces mmengine's ``DistSamplerSeedHook`` and sets the
    epoch for which the sum equals ``order_seed``. The seed is the run's, the same on all processes: with
    ``diff_rank_seed``, mmengine would let samplers draw one, and the order would depend on earlier random draws.
    """

    def before_train_epoch(self, runner) -> None:
        loader = runner.train_dataloader
        sampler = loader.sampler if hasattr(loader.sampler, 'set_epoch') else loader.batch_sampler.sampler
        if not hasattr(sampler, 'set_epoch'):
            return  # infinite samplers have no epochs
        if isinstance(sampler, EpochSampler):
            sampler.set_epoch(runner.epoch)
            return
        differ = runner._randomness_cfg.get('diff_rank_seed', False)
        seed = runner.seed - runner.rank if differ else runner.seed
        sampler.set_epoch(order_seed(seed, runner.epoch) - sampler.seed)


@HOOKS.register_module()
class UnreadableImageHook(Hook):
    """Reports unreadable images: one line each, a count per epoch, and an error when there are too many.

    Processes exchange their unreadable images when the log is written, so all have the same list and stop together.
    ``<work_dir>/unreadable_images.txt`` lists every unreadable image with its message once, across all restarts of the run.
    Images that only the slow decoder could read are counted, and the first few are logged. Information lost in conversion to
    8-bit RGB (depth, bands, pages) is reported when it first occurs, and counted over the first epoch.

    Args:
        max_unreadable: Number of distinct unreadable images, since the start or the last resume, above which training stops.

    Raises:
        UnreadableImageError: The limit is exceeded; raised on all processes.
    """

    max_slow_lines = 10
    list_name = 'unreadable_images.txt'

    def __init__(self, max_unreadable: int = 100) -> None:
        self.max_unreadable = max_unreadable
        self.unreadable, self.lost = UnreadableAccount(), LostAccount()
        self.seen_slow: set[str] = set()
        self.known_kinds: set[str] = set()
        self.counts_lost = True

    def before_train(self, runner) -> None:
        self.intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self.list = ListFile(Path(runner.work_dir) / self.list_name)

    def before_train_epoch(self, runner) -> None:
        self.unreadable.start_epoch()
        self.slow_in_epoch = 0

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.unreadable.add(data_batch['unreadable'])
        self.lost.add(data_batch.get('lost', ()))
        if any(self.every_n_inner_iters(batch_idx, interval) for interval in self.intervals):
            self.tell(runner)
        self.slow_in_epoch += len(data_batch['fallbacks'])
        for message in data_batch['fallbacks']:
            if message not in self.seen_slow and len(self.seen_slow) < self.max_slow_lines:
                self.seen_slow.add(message)
                runner.logger.warning(f'slow decoding: {message}')

    def after_train_epoch(self, runner) -> None:
        self.tell(runner)
        slow = sum(dist.all_gather_object(self.slow_in_epoch))
        unreadable = len(self.unreadable.in_epoch)
        if unreadable:
            runner.logger.warning(f'epoch {runner.epoch + 1}: {unreadable} unreadable images replaced')
        if slow:
            runner.logger.warning(f'epoch {runner.epoch + 1}: {slow} images needed the slow decoder')
        if self.counts_lost:
            for line in self.lost.of_all_processes().lines():
                runner.logger.warning(f'epoch {runner.epoch + 1}: {line}')
        self.counts_lost = False

    def tell(self, runner) -> None:
        """Shares and logs new messages and enforces the limit; collective call."""
        new_kinds = self.lost.counts.keys() - self.known_kinds
        number = torch.tensor(len(self.unreadable.untold) + len(new_kinds))
        dist.all_reduce(number)
        if not number.item():
            return
        self.tell_kinds(runner)
        new, total = self.unreadable.share(), len(self.unreadable.seen)
        for message in new:
            runner.logger.warning(f'unreadable image, replaced by the next one: {message}')
        if runner.rank == 0:
            self.write_list(runner, new)
        if total > self.max_unreadable:
            raise UnreadableImageError(
                f'{total} images cannot be read, more than max_unreadable={self.max_unreadable} (listed in '
                f'{self.list.path}); repair or remove them, or raise max_unreadable of UnreadableImageHook. Last: {new[-1]}'
            )

    def tell_kinds(self, runner) -> None:
        """Reports kinds of lost information that occur for the first time on any process; collective call."""
        lost = self.lost.of_all_processes()
        for kind in sorted(lost.first.keys() - self.known_kinds):
            runner.logger.warning(f'some images {kind}; the first is {lost.first[kind]}')
        self.known_kinds |= lost.first.keys()

    def write_list(self, runner, messages: Sequence[str]) -> None:
        try:
            self.list.add(messages)
        except OSError as error:
            runner.logger.warning(f'{self.list.path} could not be written: {error}')  # they are also in the log


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs images per second over all processes."""

    priority = 55  # after IterTimerHook (50), which measures the time, and before LoggerHook (60), which prints it

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        seconds = runner.message_hub.get_scalar('train/time').mean(runner.log_processor.window_size)
        images = len(data_batch['index']) * runner.world_size
        runner.message_hub.update_scalar('train/images_per_s', images / seconds)
