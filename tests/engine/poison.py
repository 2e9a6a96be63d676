"""Hooks that break a run in chosen iterations, and one that leaves iterations out by hand."""

from __future__ import annotations

import math
from collections.abc import Container

from mmengine.hooks import Hook

from mmadclr.distributed.wrappers import unwrapped


class NaNImages(Hook):
    """One pixel of the first image is NaN in some iterations, on one process."""

    def __init__(self, iterations: Container[int], rank: int = 0) -> None:
        self.iterations, self.rank = iterations, rank

    def before_train(self, runner) -> None:
        def poison(preprocessor, args, output) -> None:
            if 'views' in output and runner.iter in self.iterations and runner.rank == self.rank:
                output['views']['global_views'][0, 0, 0, 0, 0] = math.nan

        self.handle = unwrapped(runner.model).data_preprocessor.register_forward_hook(poison)

    def after_train(self, runner) -> None:
        self.handle.remove()


class LeaveOut(Hook):
    """The forward pass of some iterations is made, and nothing that follows it."""

    def __init__(self, iterations: Container[int]) -> None:
        self.iterations = iterations

    def before_train(self, runner) -> None:
        update = runner.optim_wrapper.update_params

        def update_or_not(*args, **kwargs) -> None:
            if runner.iter not in self.iterations:
                update(*args, **kwargs)
                return
            runner.optim_wrapper._inner_count += 1
            for loss in unwrapped(runner.model).distillation_losses():
                loss.pending.clear()

        runner.optim_wrapper.update_params = update_or_not


class Record(Hook):
    """What each iteration saw and what came out: numbers of the images, losses."""

    def __init__(self) -> None:
        self.images, self.losses = {}, {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.images[runner.iter] = data_batch['index'].tolist()
        self.losses[runner.iter] = outputs['loss'].item()
