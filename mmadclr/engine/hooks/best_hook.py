"""Keeps the best checkpoint of a run by a measure of its evaluations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.hooks import Hook

from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.run_files import write_synced
from mmadclr.evaluation.adaptation.evaluator import ORIGINAL
from mmadclr.evaluation.adaptation.scores import KINDS
from mmadclr.registry import HOOKS

RULES = ('greater', 'less')


@HOOKS.register_module()
class KeepBestHook(Hook):
    """Saves ``best_<measure>.pth`` whenever an evaluation is better than all before.

    The file is a full checkpoint, written atomically and never pruned; it also records the score, so that a resumed run
    replaces it only by a better one, even if it resumes from an earlier checkpoint. The first evaluation of a new run
    replaces the file of an earlier run. If the file cannot be written, an error is logged, the run continues, and the
    previous file is kept.

    Args:
        measure: Name in the results of the evaluation, as in the log without ``val/``.
        rule: ``'greater'`` or ``'less'`` is better; by default that of a measure of adaptation, else ``'greater'``.
        least_rank: An evaluation is not better if the ``rank`` of the features is below this share of the original's, as in
            a collapse, in which other measures may rise by chance.

    Raises:
        ValueError: Unknown ``rule``, or an evaluation without the measure.
    """

    priority = 'LOW'

    def __init__(self, measure: str, rule: str | None = None, least_rank: float | None = None) -> None:
        self.least_rank = least_rank
        self.measure, self.sign = measure, sign_of('KeepBestHook', measure, rule)
        self.name = f'best_{re.sub(r"[^0-9A-Za-z_.+-]", "_", measure)}.pth'
        self.best: dict[str, Any] | None = None  # score, and iterations done
        self.is_training = False

    def before_train(self, runner) -> None:
        self.is_training = True
        self.best = self.find_best(runner) if runner._resume else None

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        if not self.is_training:
            return
        found = {'score': measure_of('KeepBestHook', metrics, self.measure), 'iteration': runner.iter}
        # Scores of processes may differ in the last digits, and saving is collective.
        decision = [self.is_better(found['score']) and lost_rank(metrics, self.least_rank) is None]
        dist.broadcast_object_list(decision)
        if decision[0]:
            self.save(runner, found)

    def after_train(self, runner) -> None:
        self.is_training = False

    def is_better(self, score: float) -> bool:
        """Whether a score is above the best; NaN never is."""
        if math.isnan(score):
            return False
        return self.best is None or self.sign * score > self.sign * self.best['score']

    def save(self, runner, found: dict[str, Any]) -> None:
        """Saves the state of the run with its score; collective call."""
        runner.message_hub.update_info(self.key, found)
        content = runner.checkpoint_content(runner.iter)
        path = Path(runner.work_dir) / self.name
        try:
            if dist.is_main_process():
                write_synced(content, path)
        except (OSError, RuntimeError) as error:  # torch raises either for a full disk
            runner.message_hub.update_info(self.key, self.best)
            runner.logger.error(f'{path} could not be written ({error}); training continues with the best one so far')
        else:
            self.best = found
            runner.logger.info(f'{self.measure} {found["score"]:.4g} is the best so far: saved to {self.name}')

    @property
    def key(self) -> str:
        """Of the record in the history of the run."""
        return f'best_{self.measure}'

    def find_best(self, runner) -> dict[str, Any] | None:
        """The record in the file of a resumed run, as the main process reads it; None, with a warning, without a file."""
        found: list[dict[str, Any] | None] = [None]
        if dist.is_main_process():
            found = [self.read_best(runner)]
        dist.broadcast_object_list(found)
        return found[0]

    def read_best(self, runner) -> dict[str, Any] | None:
        path, before = Path(runner.work_dir) / self.name, runner.message_hub.get_info(self.key, None)
        problem = 'does not exist' if not path.is_file() else None
        try:
            if problem is None:
                return dict(read_checkpoint(path, mapped=True)['message_hub']['runtime_info'][self.key])
        except (ValueError, KeyError, TypeError) as error:
            problem = f'cannot be read ({error})'
        if before is not None or path.is_file():
            known = (
                '' if before is None else f' ({self.measure} was {before["score"]:.4g} at iteration {before["iteration"]})'
            )
            runner.logger.warning(
                f'{path} {problem}: the best so far{known} is lost, and the next evaluation becomes the best'
            )
        return None


def sign_of(hook: str, measure: str, rule: str | None) -> int:
    """1 if greater values are better, -1 if smaller ones are.

    Raises:
        ValueError: Unknown rule.
    """
    if rule is None:
        rule = 'less' if measure in KINDS and not KINDS[measure].higher else 'greater'
    if rule not in RULES:
        raise ValueError(f'rule={rule!r} of {hook}: choose one of {", ".join(map(repr, RULES))}')
    return 1 if rule == 'greater' else -1


def lost_rank(metrics: Mapping[str, float] | None, least: float | None) -> str | None:
    """What the rank of the features has fallen from and to, if it is below a share ``least`` of that of the original."""
    rank, original = ((metrics or {}).get(name) for name in ('rank', f'{ORIGINAL}rank'))
    if least is None or rank is None or original is None or rank >= least * original:
        return None
    return f'{original:.1f} to {rank:.1f}'


def measure_of(hook: str, metrics: Mapping[str, float] | None, measure: str) -> float:
    """The value of a measure.

    Raises:
        ValueError: The evaluation does not have it.
    """
    if metrics is None or measure not in metrics:
        names = ', '.join(metrics or {}) or 'nothing'
        raise ValueError(f'measure={measure!r} of {hook} is not among the results of the evaluation: choose one of {names}')
    return float(metrics[measure])
