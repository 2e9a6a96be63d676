"""Python's garbage is collected at the same iterations on all processes."""

from __future__ import annotations

import gc

from mmengine.hooks import Hook

from mmadclr.registry import HOOKS
from mmadclr.reliability.garbage import SWITCH


@HOOKS.register_module()
class GarbageCollectionHook(Hook):
    """Collects Python's garbage every ``interval`` iterations, on all processes at once, and at no other time of training.

    Python collects whenever enough objects were made, on each process at another moment, and in every exchange of gradients
    all wait for the one that does. What exists after the first collection (modules, the list of images, compiled code) stays
    for the whole run and is left out from then on, so that the later ones are short. Evaluations, and the workers of the
    loader, collect as ever. However training ends, so does everything else.

    Off unless a config has ``default_hooks.garbage=dict(type='GarbageCollectionHook')``. A full collection takes 230 ms on
    a CPU with nothing but this package loaded, and under .01 ms once what exists is left out. What a run gains from that
    is expected to grow with the number of processes; no GPU has measured it.

    Args:
        interval: Iterations between two collections.

    Raises:
        ValueError: It is less than 1.
    """

    def __init__(self, interval: int = 150) -> None:
        if interval < 1:
            raise ValueError(
                f'interval={interval} of GarbageCollectionHook: collect every 1 or more iterations, or remove it'
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
        if not self.has_frozen and not gc.get_freeze_count():  # else it is somebody else's to thaw
            gc.freeze()
            self.has_frozen = True

    def before_val_epoch(self, runner) -> None:
        SWITCH.on()

    def after_val_epoch(self, runner, metrics=None) -> None:
        if self.is_training:
            SWITCH.off()

    def leave_training(self, runner) -> None:
        """However the run ended: Python collects again as it did before."""
        self.is_training = False
        SWITCH.on()
        if self.has_frozen:
            gc.unfreeze()
            self.has_frozen = False
