"""Losses stay on the device until the log is written."""

from __future__ import annotations

import math

import torch
from mmengine import dist
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from torch import Tensor

from mmadclr.registry import HOOKS


@HOOKS.register_module()
class LossRecordHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` without a wait for the device in every iteration; stops at losses that are not finite.

    mmengine fetches every loss in every iteration. Here they are fetched together when ``LoggerHook`` is about to write,
    at the end of an epoch, and before a checkpoint is saved, so none is ever saved after a loss that is not finite. What
    is recorded, for each iteration, is the mean over all processes.

    Raises:
        FloatingPointError: A loss is not finite; names iteration, images and the way out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[tuple[int, dict[str, Tensor], list[int]]] = []

    def before_train(self, runner) -> None:
        super().before_train(runner)
        self.intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        losses = {name: value.detach() for name, value in outputs.items()}  # else their graphs live on
        self.pending.append((runner.iter, losses, data_batch['index'].tolist()))
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if last or any(self.every_n_inner_iters(batch_idx, interval) for interval in self.intervals):
            self.flush_losses(runner)

    def flush_losses(self, runner) -> None:
        """Fetches, checks and records what is pending; to be called on all processes. The runner calls it before saving."""
        if not self.pending:
            return
        pending, self.pending = self.pending, []
        names = list(pending[0][1])
        local = torch.stack([losses[name].float() for _, losses, _ in pending for name in names])
        mean = local.clone()
        dist.all_reduce(mean, 'mean')
        local, mean = (values.view(len(pending), -1).tolist() for values in (local, mean))
        for (iteration, _, images), here, everywhere in zip(pending, local, mean, strict=True):
            if not all(map(math.isfinite, everywhere)):
                raise FloatingPointError(_explain(runner, iteration, images, dict(zip(names, here, strict=True))))
            for name, value in zip(names, everywhere, strict=True):
                runner.message_hub.update_scalar(f'train/{name}', value)


def _explain(runner, iteration: int, images: list[int], losses: dict[str, float]) -> str:
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    where = f'{", ".join(broken)} not finite' if broken else 'a loss of another process is not finite'
    which = f', images {images}' if broken else ''
    return (
        f'{where} at iteration {iteration} (epoch {runner.epoch}, rank {runner.rank}){which}. The last checkpoint in '
        f'{runner.work_dir} is from before; lower the learning rate, clip gradients (optim_wrapper.max_norm) or use '
        'precision fp32.'
    )
