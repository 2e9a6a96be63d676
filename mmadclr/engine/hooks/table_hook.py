"""Sends the table of validations to experiment trackers."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop

from mmadclr.engine.trackers import trackers_of
from mmadclr.registry import HOOKS


@HOOKS.register_module()
class ValidationTableHook(Hook):
    """Adds a line to the table ``validations`` of every tracker of the run after each validation: epoch, iteration, results.

    A run that is resumed as a new one of the tracker begins a new table. Evaluations without training add nothing.
    """

    priority = 'LOW'

    @master_only
    def after_val_epoch(self, runner, metrics: Mapping[str, float] | None = None) -> None:
        if not metrics or not isinstance(runner._train_loop, BaseLoop):  # asking for its epoch would build it
            return
        for tracker in trackers_of(runner.visualizer):
            tracker.add_row('validations', {'epoch': runner.epoch, 'iter': runner.iter, **metrics}, step=runner.iter)
