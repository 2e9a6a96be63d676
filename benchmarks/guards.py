"""What watching costs: ``python benchmarks/guards.py``.

A training step with the numbers guard against one without, in turn; and an observation of the collapse monitor, of which
there is one per ``interval`` steps. Counts are exact; ``waits`` are those of the device in a step that is not logged.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import common
import torch
from common import Row, count, counted_row
from step import LR, MAX_NORM, build, draw_views

from mmadclr.checkpoint.run_state import random_state
from mmadclr.engine.hooks.collapse_hook import CollapseMonitorHook
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor
from mmadclr.engine.optimizers.wrappers import SelfDistillationOptimWrapper, clip_each_tensor
from mmadclr.evaluation.observation import fetch_means, teacher_statistics

TARGET = '>= 0.98'


class Unguarded(SelfDistillationOptimWrapper):
    """The wrapper as it would be without a guard."""

    def backward(self, loss: torch.Tensor, **kwargs) -> None:
        loss.backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs) -> None:
        parameters = (p for group in self.optimizer.param_groups for p in group['params'])
        clip_each_tensor([p.grad for p in parameters if p.grad is not None], self.max_norm)
        self.optimizer.step(**kwargs)
        self.method.after_step()


def step_of(model: torch.nn.Module, args: argparse.Namespace, guarded: bool) -> Callable[..., object]:
    """A training step with what happens for the guard in it: flags, their copy, the random state of the step."""
    cfg = dict(optimizer=dict(type='AdamW', lr=LR), max_norm=MAX_NORM, precision=args.precision)
    wrapper = SelfDistillationOptimConstructor(cfg)(model)
    if not guarded:
        wrapper.__class__ = Unguarded
        wrapper.optimizer.found_inf = None

    def step(**views: torch.Tensor) -> object:
        kept = random_state() if guarded else None
        losses = model.train_step(dict(views=views), wrapper)
        return kept, losses, wrapper.skipped.clone() if guarded else None

    return step


def observation_of(model: torch.nn.Module, rows: int) -> Callable[..., object]:
    """The losses of a step with the monitor's hooks on them, and the fetch of what they saw."""
    monitor = CollapseMonitorHook(rows)
    monitor.seen, monitor.leak = {}, None
    losses = {name: getattr(model, f'loss_{name}') for name in ('cls', 'query')}

    def observe(**views: torch.Tensor) -> object:
        handles = monitor.attach(model, losses)
        result = model.loss(**views)
        for handle in handles:
            handle.remove()
        fetch_means({**monitor.seen, 'teacher': teacher_statistics(model)})
        return result

    return observe


def main() -> None:
    defaults = dict(arch='mini', batch=2, queries=10, locals=10, prototypes=65536, rounds=25, precision='fp32')
    args = common.parser(__doc__, rows=256, interval=50, **defaults).parse_args()
    views, models = draw_views(args), [build(args), build(args)]
    guarded, plain = (step_of(model, args, is_guarded) for model, is_guarded in zip(models, (True, False), strict=True))
    steps = [partial(step, **views) for step in (guarded, plain)]
    time = common.timed_row('step with the numbers guard', *steps, args.rounds, args.device, target=TARGET)
    steps = [count(step) for step in steps]
    looks = [partial(look, **views) for look in (observation_of(models[0], args.rows), models[1].loss)]
    seen = common.timed_row('losses with an observation', *looks, args.rounds, args.device)
    slower = 1 / time.ratio + (seen.ours - seen.reference) / args.interval / time.reference
    rows = [
        time,
        counted_row('operations of a step', '', *(step.operations for step in steps)),
        counted_row('waits for the device in a step', '', *(len(step.syncs) for step in steps), target='0'),
        seen,
        Row('guard and monitor', 'ms a step', time.reference * slower, time.reference, 1 / slower, target=TARGET),
    ]
    common.report('guards', rows, args)


if __name__ == '__main__':
    main()
