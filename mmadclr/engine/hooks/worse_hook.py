"""Ends a run that has stayed worse than the model it started from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.hooks import Hook

from mmadclr.checkpoint.run_files import write_checkpoint
from mmadclr.engine.hooks.best_hook import KeepBestHook, lost_rank, measure_of, sign_of
from mmadclr.engine.hooks.checkpoint_hook import SafeCheckpointHook
from mmadclr.evaluation.adaptation.evaluator import ERROR, ORIGINAL
from mmadclr.registry import HOOKS

ERRORS = 2  # standard errors by which a measure must be worse


@HOOKS.register_module()
class StopWhenWorseHook(Hook):
    """Ends a run in order, with a checkpoint, when a measure has been worse than that of the original model for long.

    The number of evaluations in a row is part of the checkpoints, so a resumed run continues counting. The reason is logged
    as a warning and kept in ``reason``.

    Args:
        measure: Name in the results of the evaluation, as in the log without ``val/``.
        patience: Number of consecutive evaluations that are worse.
        original: Value of the original model; by default ``original/<measure>`` of the evaluation, which
            ``AdaptationMeasures`` computes.
        margin: By how much the measure must be worse to count, in its own unit. By default twice ``error/<measure>`` of the
            evaluation, the standard error of the difference, so that an equally good model is rarely stopped; 0 without it.
        rule: See ``KeepBestHook``.
        least_rank: An evaluation is worse, too, if the ``rank`` of the features is below this share of the original's.

    Raises:
        ValueError: A number is out of range, the ``rule`` is unknown, or an evaluation lacks the measure or the original's.
    """

    priority = 'LOWEST'  # after KeepBestHook

    def __init__(
        self,
        measure: str,
        patience: int = 3,
        original: float | None = None,
        margin: float | None = None,
        rule: str | None = None,
        least_rank: float | None = None,
    ) -> None:
        if patience < 1 or (margin is not None and not margin >= 0):
            raise ValueError(
                f'patience={patience}, margin={margin} of StopWhenWorseHook: patience must be at least 1, margin at least 0'
            )
        self.measure, self.patience, self.original, self.margin = measure, patience, original, margin
        self.least_rank = least_rank
        self.sign = sign_of('StopWhenWorseHook', measure, rule)
        self.state: dict[str, Any] = {}
        self.reason: str | None = None
        self.is_training = False

    def before_train(self, runner) -> None:
        self.is_training, self.reason, self.started_at = True, None, runner.iter
        start = {'count': 0, 'iteration': -1}
        self.state = dict(runner.message_hub.get_info(self.key, start)) if runner._resume else start

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        if not self.is_training:
            return
        value = measure_of('StopWhenWorseHook', metrics, self.measure)
        original = self.value_of_original(metrics or {})
        fallen = lost_rank(metrics, self.least_rank)
        decision = [fallen is not None or self.is_worse(value, original, self.margin_of(metrics or {}))]
        dist.broadcast_object_list(decision)
        self.count(runner, decision[0])
        if self.state['count'] >= self.patience:
            self.stop(runner, value, original, fallen)

    def after_train(self, runner) -> None:
        self.is_training = False

    @property
    def key(self) -> str:
        """Of the count in the history of the run."""
        return f'worse_{self.measure}'

    def value_of_original(self, metrics: dict[str, float]) -> float:
        """Raises ValueError if it is not known."""
        found = metrics.get(f'{ORIGINAL}{self.measure}') if self.original is None else self.original
        if found is None:
            raise ValueError(
                f'StopWhenWorseHook: the evaluation has no {ORIGINAL}{self.measure} to compare with: set original=VALUE of '
                'the hook, or the original weights of AdaptationMeasures (original=FILE)'
            )
        return found

    def margin_of(self, metrics: dict[str, float]) -> float:
        """The margin, by default from the standard error in the results of an evaluation."""
        return ERRORS * metrics.get(f'{ERROR}{self.measure}', 0.0) if self.margin is None else self.margin

    def is_worse(self, value: float, original: float, margin: float) -> bool:
        """Whether a value is worse by more than the margin; NaN is."""
        return math.isnan(value) or self.sign * (original - value) > margin

    def count(self, runner, worse: bool) -> None:
        """An evaluation that is repeated after resuming counts once."""
        if runner.iter != self.state['iteration']:
            self.state = {'count': self.state['count'] + 1 if worse else 0, 'iteration': runner.iter}
            runner.message_hub.update_info(self.key, self.state)

    def stop(self, runner, value: float, original: float, fallen: str | None) -> None:
        """Saves a checkpoint unless there is one, and ends the training loop after this evaluation; collective call."""
        content = None if self.is_saved(runner) else runner.checkpoint_content(runner.iter)
        if content is not None and dist.is_main_process():
            write_checkpoint(content, Path(runner.work_dir) / f'iter_{runner.iter}.pth')
        self.reason = self.explain(runner, value, original, fallen)
        runner.logger.warning(self.reason)
        runner.train_loop.stop_training = True

    def is_saved(self, runner) -> bool:
        """Whether the present state is in a checkpoint, or was just resumed from one."""
        hooks = (hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook))
        return self.started_at == runner.iter or any(hook.saved_at == runner.iter for hook in hooks)

    def explain(self, runner, value: float, original: float, fallen: str | None) -> str:
        """Why the run stops, and what to do."""
        side = 'below' if self.sign > 0 else 'above'
        problem = f'{self.measure} has been {side} that of the original model ({original:.4g})'
        now = f'now {value:.4g}: the model becomes worse on these images'
        if fallen is not None:
            problem = f'{self.measure} has been {side}, or the rank of the features far below, that of the original model'
            now = f'the rank fell from {fallen}: the features collapse'
        return (
            f'stopped after iteration {runner.iter}: {problem} in {self.state["count"]} consecutive evaluations, {now}. '
            f'{self.what_to_use(runner, original)}Lower the learning rate (by a factor of 3 to 10), train '
            'the heads longer before the backbone, or use more images; to continue all the same, in a config of your '
            f'own, raise patience (now {self.patience}) of StopWhenWorseHook and --resume'
        )

    def what_to_use(self, runner, original: float) -> str:
        """Whether the best checkpoint of the run is better than the original."""
        hooks = (hook for hook in runner.hooks if isinstance(hook, KeepBestHook) and hook.measure == self.measure)
        best = next(((hook.best['score'], hook.name) for hook in hooks if hook.best is not None), None)
        if best is None:
            return 'Keep the original weights. '
        score, name = best
        if self.sign * (score - original) > 0:
            return f'The best of the run is better than the original ({score:.4g}): use {name}. '
        return (
            f'The best of the run is not better than the original either ({score:.4g}, {name}): keep the original weights. '
        )
