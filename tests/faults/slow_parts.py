"""Parts of a run that do not end, for signals that come meanwhile."""

from __future__ import annotations

import time

from mmengine.hooks import Hook


def _wait(what: str) -> None:
    print(f'{what} that does not end', flush=True)
    time.sleep(3600)


class SlowStep(Hook):
    """Iteration number ``iteration`` does not end."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            _wait('a step')


class SlowValidation(Hook):
    """The validation after epoch ``epoch`` does not end, on process ``rank``; others wait for it in a collective call."""

    def __init__(self, epoch: int, rank: int = 0) -> None:
        self.epoch, self.rank = epoch, rank

    def before_val_epoch(self, runner) -> None:
        if runner.epoch == self.epoch and runner.rank == self.rank:
            _wait('a validation')
