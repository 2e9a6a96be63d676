"""Runs Python's garbage collection at the same iterations on all processes."""

from __future__ import annotations

import gc

from mmengine.hooks import Hook

from mmadclr.registry import HOOKS
from mmadclr.reliability.garbage import SWITCH


@HOOKS.register_module()
class GarbageCollectionHook(Hook):
    """Collects Python's garbage every ``interval`` iterations on all processes at once, and at no other time in training.

    Python collects after enough allocations, at a different moment on each process, and all processes wait for the slowest
    one in every all-reduce of gradients. Objects alive after the first collection (modules, the list of images, compiled
    code) live for the full run and are excluded from later collections, which makes these fast. Evaluation and loader
    workers collect as usual, and automatic collection is restored when training ends for any reason.

    Off unless a config has ``default_hooks.garbage=dict(type='GarbageCollectionHook')``. A full collection takes 230 ms on
    a CPU with only this package loaded, and under .01 ms once existing objects are excluded. The benefit should grow with
    the number of processes; it has not been measured on GPUs.

    Args:
        interval: Iterations between two collections.

    Raises:
        ValueError: ``interval`` is less than 1.
    """

    def __init__(self, interval: int = 150) -> None:
        if interval < 1:
            raise ValueError(
                f'interval={interval} of GarbageCollectionHook must be at least 1; remove the hook to disable it'
            )
        self.interval = interval
        self.is_training = self.has_frozen = False

    def before_train(self, runner) -> None:
        self.is_training = True
        SWITCH.off()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        gc.collect()
        if not self.has_frozen and not gc.get_freeze_count():  # otherwise other code froze objects, and must unfreeze them
            gc.freeze()
            self.has_frozen = True

    def before_val_epoch(self, runner) -> None:
        SWITCH.on()

    def after_val_epoch(self, runner, metrics=None) -> None:
        if self.is_training:
            SWITCH.off()

    def leave_training(self, runner) -> None:
        """Restores automatic collection, however the run ended."""
        self.is_training = False
        SWITCH.on()
        if self.has_frozen:
            gc.unfreeze()
            self.has_frozen = False
