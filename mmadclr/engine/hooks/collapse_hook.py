"""Watches a self-distillation run for collapse, and says what it sees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook, LoggerHook
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmadclr.checkpoint.run_files import write_checkpoint
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine.hooks.checkpoint_hook import ends_step
from mmadclr.engine.hooks.schedule_hook import DistillationScheduleHook
from mmadclr.evaluation.observation import fetch_means, rows_of_first_pair, teacher_statistics, term_statistics
from mmadclr.evaluation.verdicts import KINDS, Term, Verdict, judge_teacher, judge_term
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.registry import HOOKS

TEACHER = 'teacher'  # the name, among those of terms, of what is said about the whole model


class CollapseError(ValueError):
    """The run has collapsed in a way it was told to end at."""


@HOOKS.register_module()
class CollapseMonitorHook(Hook):
    """Logs statistics of collapse for every term of the loss, and gives verdicts in plain language.

    Whenever ``LoggerHook`` writes and at the end of an epoch, up to ``rows`` tokens of the batch at hand are looked at;
    other iterations are as without the hook. Logged to JSON and TensorBoard as ``monitor/<term>_<statistic>``, the first
    also to the terminal (``entropy_<term>``):

    * ``entropy``: of the teacher's targets, as a share of ln K;
    * ``kl``: of the student from the teacher, for the first pair of views, in nats;
    * ``prototypes``, ``top_share``: effective number of prototypes in use, and the share of the most used one;
    * ``spread``, ``rank``: of the teacher's features in front of the prototypes: standard deviation times sqrt D (1 is even,
      0 is one point), and RankMe;
    * ``cosine``: between these features of student and teacher, for the first pair of views;
    * ``leak``, of query tokens: relative change of the teacher's [CLS] when each image gets the query crops of another;
      measured once an epoch.

    ``monitor/teacher_distance`` is the distance of both networks' parameters over the teacher's norm. Every process looks at
    its own tokens; what is logged is the mean over processes, so ``prototypes`` and ``rank`` are those of ``rows`` tokens.

    A verdict comes once per kind and epoch, after ``patience`` observations in a row since the warm-up of the learning rate
    and the frozen last layer are over. What it rests on is kept in the history of the run, so a resumed run goes on judging.

    Args:
        rows: Tokens of a term that are looked at.
        patience: Observations in a row that have to look bad.
        stop_on: Kinds of verdicts that end the run, with a checkpoint; see ``mmadclr.evaluation.verdicts.KINDS``.

    Raises:
        ValueError: A number is out of range, there is no such kind, or the model is no ``SelfDistillation``.
        CollapseError: A verdict of ``stop_on``; on all processes alike.
    """

    def __init__(self, rows: int = 256, patience: int = 5, stop_on: Sequence[str] = ()) -> None:
        if rows < 2 or patience < 1:
            raise ValueError(f'rows={rows}, patience={patience} of CollapseMonitorHook: use at least 2 and 1')
        if isinstance(stop_on, str) or set(stop_on) - set(KINDS):
            raise ValueError(f'stop_on={stop_on!r} of CollapseMonitorHook: give a list of {", ".join(KINDS)}')
        self.rows, self.patience, self.stop_on = rows, patience, tuple(stop_on)
        self.told: set[tuple[str, str]] = set()
        self.last_words: str | None = None

    def before_train(self, runner) -> None:
        self.model = unwrapped(runner.model)
        if not isinstance(self.model, SelfDistillation):
            raise ValueError(f'CollapseMonitorHook watches pretraining methods, not {type(self.model).__name__}: remove it')
        modules = self.model.named_modules()
        self.losses = {n.removeprefix('loss_'): m for n, m in modules if isinstance(m, SelfDistillationLoss)}
        self.intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        schedules = [hook for hook in runner.hooks if isinstance(hook, DistillationScheduleHook)]
        epochs = max((max(hook.warmup_epochs, hook.freeze_last_layer_epochs) for hook in schedules), default=0)
        self.judged_from = epochs * len(runner.train_dataloader)
        self.seen: dict[str, dict[str, Tensor]] = {}
        self.handles: list[RemovableHandle] = []
        self.leak: Tensor | None = None

    def before_train_epoch(self, runner) -> None:
        self.told.clear()
        self.leak = None

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if last or any(self.every_n_inner_iters(batch_idx, interval) for interval in self.intervals):
            self.seen.clear()
            self.handles = self.attach(self.model, self.losses)

    def attach(self, model: SelfDistillation, losses: dict[str, SelfDistillationLoss]) -> list[RemovableHandle]:
        """Looks on at the next forward pass, until the handles are removed."""
        handles = [loss.register_forward_hook(partial(self.look, name)) for name, loss in losses.items()]
        if self.leak is None:
            handles.append(model.teacher['backbone'].register_forward_hook(self.swap_queries))
        return handles

    @torch.no_grad()
    def look(self, name: str, loss: SelfDistillationLoss, args: tuple, output: Tensor) -> None:
        """A forward hook of a loss: statistics of a few rows of its two sides."""
        sides = rows_of_first_pair(loss, *args[:2], self.rows)
        if len(sides[0].features):  # iBOT: there may be no masked patch
            with torch.autocast(output.device.type, enabled=False):
                self.seen[name] = term_statistics(loss, *sides)

    def swap_queries(self, backbone: nn.Module, args: tuple, output: NamedTuple) -> None:
        """A forward hook of the teacher's backbone: what its [CLS] would be with the query crops of other images."""
        if len(args) > 1 and args[1] is not None and self.leak is None:
            self.leak = output.cls.new_zeros(())  # ends this here for the pass below
            other = backbone(args[0], args[1].roll(1, dims=0), patches=False).cls
            self.leak = (other - output.cls).norm() / output.cls.norm()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.handles:
            for handle in self.handles:
                handle.remove()
            self.handles = []
            self.record(runner)
        if self.last_words is not None and ends_step(runner, runner.iter + 1):
            self.end(runner)

    def record(self, runner) -> None:
        """Fetches, averages over processes, logs and judges what was seen; to be called on all processes."""
        if 'query' in self.seen and self.leak is not None:
            self.seen['query']['leak'] = self.leak
        names = set(self.losses).intersection(*dist.all_gather_object(set(self.seen)))
        groups = {name: self.seen[name] for name in sorted(names)} | {TEACHER: teacher_statistics(self.model)}
        for name, numbers in fetch_means(groups).items():
            if not all(map(math.isfinite, numbers.values())):  # the account of skipped steps tells of it
                self.leak = None  # to be measured anew
                continue
            self.log(runner, name, numbers)
            for verdict in self.judge(runner, name, numbers):
                self.tell(runner, verdict)

    def log(self, runner, name: str, numbers: dict[str, float]) -> None:
        """Puts statistics into the history of the run, files and the terminal."""
        if name == TEACHER:
            numbers['momentum'] = self.model.teacher_momentum
        else:
            runner.message_hub.update_scalar(f'train/entropy_{name}', numbers['entropy'])
        scalars = {f'monitor/{name}_{key}': value for key, value in numbers.items()}
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)
        numbers['iteration'] = runner.iter + 1
        for key, value in numbers.items():
            runner.message_hub.update_scalar(f'monitor/{name}_{key}', value)

    def judge(self, runner, name: str, keys: Iterable[str]) -> list[Verdict]:
        """Verdicts on the observations since judging began; of very many, the newest are there (``BoundedHistory``)."""
        columns = {key: runner.message_hub.get_scalar(f'monitor/{name}_{key}').data[0] for key in keys}
        early = (columns['iteration'] <= self.judged_from).sum()
        columns = {key: values[early:] for key, values in columns.items()}
        # Most say nothing, as the newest of them show; thousands of others take long, and only tell since when.
        if not self.verdicts(name, {key: values[-self.patience :] for key, values in columns.items()}):
            return []
        return self.verdicts(name, columns)

    def verdicts(self, name: str, columns: dict[str, np.ndarray]) -> list[Verdict]:
        columns = {key: values.tolist() for key, values in columns.items()}
        if name == TEACHER:
            return judge_teacher(columns, self.patience)
        loss = self.losses[name]
        return judge_term(columns, name, Term(len(loss.center), loss.teacher_temp, loss.center_momentum), self.patience)

    def tell(self, runner, verdict: Verdict) -> None:
        if verdict[:2] not in self.told:
            self.told.add(verdict[:2])
            runner.logger.warning(verdict.text)
        if verdict.kind in self.stop_on and self.last_words is None:
            self.last_words = verdict.text

    def end(self, runner) -> None:
        """Leaves a checkpoint and ends the run."""
        content = runner.checkpoint_content(runner.iter + 1)
        path = Path(runner.work_dir) / f'iter_{runner.iter + 1}.pth'
        if dist.is_main_process():
            write_checkpoint(content, path)
        raise CollapseError(f'{self.last_words}. The run ends here, as stop_on says, with the checkpoint {path}')
