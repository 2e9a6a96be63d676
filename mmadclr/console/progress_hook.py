"""A hook that shows the progress of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import MessageHub

from mmadclr.console.summary import evaluation_summary, final_summary, training_summary
from mmadclr.registry import HOOKS

REWRITE_S = 0.1
# The metric of a validation to show in the line, the first one that exists: part of its name, and its format.
HEADLINES = {
    'val/knn': 'k-NN {:.1f} %',
    'bbox_mAP': 'box mAP {:.3f}',
    'mIoU': 'mIoU {:.1f} %',
    '_miou': 'mIoU {:.1f} %',  # of dense probes, among others by k-NN of patches
    'top1': 'top-1 {:.1f} %',
}


@HOOKS.register_module()
class ProgressHook(Hook):
    """Prints summaries at the start and the end of a run, and a progress line, which is rewritten in a terminal.

    The hook transfers nothing from the device: the loss is that of the last line of the log. The runner adds the hook unless
    the config has ``verbose=True``.
    """

    priority = 'LOWEST'  # other hooks record what it prints

    def __init__(self) -> None:
        self.drawn_at = 0.0
        self.is_training = False  # in a run that only evaluates, runner.iter would build a training loop

    def before_train(self, runner) -> None:
        self.is_training, self.began = True, time.monotonic()
        runner.logger.info(training_summary(runner))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        last = runner.iter + 1 == runner.max_iters
        is_due = last or any(self.is_due(hook, runner.train_dataloader, batch_idx) for hook in log_hooks(runner))
        self.tell(runner, is_due, last, training_fields, (runner.iter + 1) / runner.max_iters)

    def is_due(self, hook: LoggerHook, loader, batch_idx: int) -> bool:
        """Whether the log has a line for this iteration."""
        ends = self.end_of_epoch(loader, batch_idx) and (not hook.ignore_last or len(loader) <= hook.interval)
        return ends or self.every_n_inner_iters(batch_idx, hook.interval)

    def after_train(self, runner) -> None:
        runner.console.end_line()
        runner.logger.info(final_summary(runner, as_time(time.monotonic() - self.began)))

    def leave_training(self, runner) -> None:
        self.is_training = False

    def before_val(self, runner) -> None:
        self.before_evaluation(runner, runner.val_dataloader)

    def before_test(self, runner) -> None:
        self.before_evaluation(runner, runner.test_dataloader)

    def before_evaluation(self, runner, loader) -> None:
        if not self.is_training:
            runner.logger.info(evaluation_summary(runner, loader))
        if runner.console.is_terminal and not runner.console.is_quiet:
            runner.console.show(['evaluating'], 0.0)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.tell_evaluation(runner, batch_idx, len(runner.val_dataloader))

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.tell_evaluation(runner, batch_idx, len(runner.test_dataloader))

    def tell_evaluation(self, runner, batch_idx: int, total: int) -> None:
        def fields(runner) -> list[str]:
            return [f'evaluating {batch_idx + 1:,}/{total:,}', *time_left(runner.message_hub)]

        last = batch_idx + 1 == total
        is_due = last or any(self.every_n_inner_iters(batch_idx, hook.interval) for hook in log_hooks(runner))
        self.tell(runner, is_due, last, fields, (batch_idx + 1) / total)

    def after_val_epoch(self, runner, metrics: Mapping[str, Any] | None = None) -> None:
        self.tell_metrics(runner, metrics)

    def after_test_epoch(self, runner, metrics: Mapping[str, Any] | None = None) -> None:
        self.tell_metrics(runner, metrics)

    def tell_metrics(self, runner, metrics: Mapping[str, Any] | None) -> None:
        if metrics and not runner.console.is_quiet:
            runner.console.end_line()
            when = f'after {runner.iter:,} iterations: ' if self.is_training else ''
            runner.console.write(f'{when}{", ".join(f"{name} {rounded(value)}" for name, value in metrics.items())}\n')

    def tell(self, runner, is_due: bool, last: bool, fields: Callable, share: float) -> None:
        """Rewrites the line in a terminal; otherwise writes a line whenever the log has one (``is_due``)."""
        console, now = runner.console, time.monotonic()
        if console.is_quiet:
            return
        if console.is_terminal:
            if now - self.drawn_at > REWRITE_S or last:
                self.drawn_at = now
                console.show(fields(runner), share)
        elif is_due:
            console.write('  '.join(fields(runner)) + '\n')


def log_hooks(runner) -> list[LoggerHook]:
    return [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]


def training_fields(runner) -> list[str]:
    """Fields of the progress line, the most important first."""
    hub, window, done = runner.message_hub, runner.log_processor.window_size, runner.iter + 1
    fields = [f'{done / runner.max_iters:4.0%}']
    if hasattr(runner.train_loop, 'run_epoch'):
        fields.append(f'epoch {runner.epoch + 1}/{runner.max_epochs}')
    fields += [f'loss {value:.4g}' for value in mean(hub, 'train/loss', window)]
    fields += time_left(hub)
    images = runner.train_dataloader.batch_sampler.batch_size * runner.world_size
    fields += [f'{images / seconds:,.0f} images/s' for seconds in mean(hub, 'train/time', window)]
    return [*fields, *headline(hub), f'iteration {done:,}/{runner.max_iters:,}']


def mean(hub: MessageHub, name: str, window: int) -> list[float]:
    """The mean in the log, as a list; empty if there is none yet."""
    return [hub.get_scalar(name).mean(window)] if name in hub.log_scalars else []


def time_left(hub: MessageHub) -> list[str]:
    seconds = hub.runtime_info.get('eta')
    return [] if seconds is None else [f'{as_time(seconds)} left']


def as_time(seconds: float) -> str:
    """``0:02:11``."""
    return str(timedelta(seconds=int(seconds)))


def headline(hub: MessageHub) -> Iterator[str]:
    """The metric of the last validation, including those before a resumption."""
    found = ((text, name) for part, text in HEADLINES.items() for name in hub.log_scalars if part in name)
    for text, name in found:
        if name.startswith('val/'):
            yield text.format(hub.get_scalar(name).current())
            return


def rounded(value: Any) -> str:
    try:
        return f'{float(value):.4g}'
    except (TypeError, ValueError):  # a metric in words
        return str(value)
