"""Epoch-based training that can stop after any iteration and resume with the next sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine import dist
from mmengine.runner import EpochBasedTrainLoop

from mmadclr.checkpoint.run_state import random_state, set_random_state
from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.registry import LOOPS


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's epoch-based loop, which can start in the middle of an epoch.

    The order of an epoch is a function of (seed, epoch), so the sampler skips the samples already seen without reading
    them: resuming takes the same time at any position. A validation that was due when the run stopped is run on resuming.
    """

    first_batch = 0  # batches of the current epoch that are already done
    validated = 0  # number of epochs completed at the last validation
    to_restore: dict[str, Any] | None = None  # random states to restore before the next iteration

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        return length_conflicts(place)

    def run(self):
        """Trains, and validates every ``val_interval`` epochs."""
        self.runner.call_hook('before_train')
        if self._epoch and not self.first_batch:
            self.validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self.validate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def validate_if_due(self) -> None:
        self._decide_current_val_interval()
        is_due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and is_due and self.validated < self._epoch:
            self.runner.val_loop.run()
            self.validated = self._epoch

    def run_epoch(self) -> None:
        """Runs the rest of the current epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        first, self.first_batch = self.first_batch, 0
        if first:
            self.dataloader.sampler.skip(first * self.dataloader.batch_sampler.batch_size)
        if self.to_restore is not None:
            set_random_state(self.to_restore)
            self.to_restore = None
        for index, batch in enumerate(self.dataloader, first):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    @property
    def total_batch(self) -> int:
        """Images per iteration, over all processes."""
        return self.dataloader.batch_sampler.batch_size * dist.get_world_size()

    def position(self, done: int) -> dict[str, Any]:
        """Input for :meth:`go_to` to resume after ``done`` iterations of the run; collective call.

        ``epoch`` and ``batch`` are those of the next iteration, ``images`` the number of images of this epoch already seen
        by all processes.
        """
        begun = done - self._epoch * len(self.dataloader)
        epochs, batch = divmod(begun, len(self.dataloader))
        return {
            'epoch': self._epoch + epochs,
            'batch': batch,
            'images': batch * self.total_batch,
            'total_batch': self.total_batch,
            'batches_per_epoch': len(self.dataloader),
            'validated': self.validated,
            'random': dist.all_gather_object(random_state()),
        }

    def go_to(self, position: dict[str, Any]) -> str | None:
        """Resumes from a position; returns what is not preserved if batch size or number of processes changed."""
        now = (self.total_batch, len(self.dataloader), dist.get_world_size())
        before = (position['total_batch'], position['batches_per_epoch'], len(position['random']))
        self._epoch, self.validated = position['epoch'], position['validated']
        self.first_batch = min(position['images'] // self.total_batch, len(self.dataloader) - 1)
        self._iter = self._epoch * len(self.dataloader) + self.first_batch
        if before[2] == now[2] and self.first_batch:  # at the start of an epoch, EpochSeedHook seeds
            self.to_restore = position['random'][dist.get_rank()]
        if before == now:
            return None
        return (
            'total batch size, batches per epoch and processes were {}, {} and {} when the checkpoint was saved, and are '
            '{}, {} and {} now. Preserved: weights, optimizer, centers, the order of the epoch and the position in it '
            '(to within a batch), and the schedules by epoch. Not preserved: the grouping of images into batches, and '
            'which paths are dropped'
        ).format(*before, *now)


def length_conflicts(place: Place) -> Iterator[Finding]:
    """Checks the run length and the validation interval of an epoch-based loop; ``place`` is that of the loop."""
    epochs, interval = place.settings.get('max_epochs'), place.settings.get('val_interval')
    if isinstance(epochs, int) and epochs < 1:
        yield Finding(f'{place.path}.max_epochs={epochs} must be at least 1')
    if place.get('val_cfg') and isinstance(epochs, int) and isinstance(interval, int) and interval > epochs:
        text = (
            f'{place.path}.val_interval={interval} > {place.path}.max_epochs={epochs}: validates only at the end of the run'
        )
        yield Finding(text, fatal=False)
