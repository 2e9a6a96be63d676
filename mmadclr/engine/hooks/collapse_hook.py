"""Monitors a self-distillation run for collapse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

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
from mmadclr.models.backbones.query_vit import ViTOutput
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.registry import HOOKS

TEACHER = 'teacher'  # reserved name, next to those of the loss terms, for statistics of the full model


class CollapseError(ValueError):
    """The run collapsed, with a verdict listed in ``stop_on``."""


@HOOKS.register_module()
class CollapseMonitorHook(Hook):
    """Logs collapse statistics for every loss term, and warns in plain language.

    Whenever ``LoggerHook`` writes and at the end of an epoch, the hook inspects up to ``rows`` tokens of the current batch;
    other iterations are unaffected. Statistics go to JSON and TensorBoard as ``monitor/<term>_<statistic>``, the first one
    also to the terminal (``entropy_<term>``):

    * ``entropy``: of the teacher's targets, as a fraction of ln K;
    * ``kl``: KL(teacher || student) for the first pair of views, in nats;
    * ``prototypes``, ``top_share``: effective number of prototypes in use, and the share of the most used one;
    * ``spread``, ``rank``: of the teacher features that enter the prototype layer: standard deviation times sqrt D
      (1: isotropic, 0: a single point), and RankMe;
    * ``cosine``: between these features of student and teacher for the first pair of views;
    * ``leak``, for query tokens: relative change of the teacher's [CLS] when the query crops are swapped between images;
      measured once per epoch.

    ``monitor/teacher_distance`` is the distance between student and teacher parameters divided by the teacher's norm. Every
    process inspects its own tokens; the log has the mean over processes, so ``prototypes`` and ``rank`` refer to ``rows``
    tokens.

    Each kind of verdict is issued once per epoch, after ``patience`` consecutive bad observations since learning-rate
    warm-up and the frozen last layer ended. The observations are kept in the run's history, so a resumed run continues
    judging.

    Args:
        rows: Number of tokens inspected per term.
        patience: Number of consecutive bad observations before a verdict.
        stop_on: Kinds of verdicts that end the run with a checkpoint; see ``mmadclr.evaluation.verdicts.KINDS``.

    Raises:
        ValueError: A number is out of range, a kind is unknown, or the model is not a ``SelfDistillation``.
        CollapseError: A verdict in ``stop_on``; raised on all processes.
    """

    def __init__(self, rows: int = 256, patience: int = 5, stop_on: Sequence[str] = ()) -> None:
        if rows < 2 or patience < 1:
            raise ValueError(
                f'rows={rows}, patience={patience} of CollapseMonitorHook: rows must be at least 2 and patience at least 1'
            )
        if isinstance(stop_on, str) or set(stop_on) - set(KINDS):
            raise ValueError(f'stop_on={stop_on!r} of CollapseMonitorHook must be a list of kinds, of {", ".join(KINDS)}')
        self.rows, self.patience, self.stop_on = rows, patience, tuple(stop_on)
        self.told: set[tuple[str, str]] = set()
        self.last_words: str | None = None

    def before_train(self, runner) -> None:
        self.model = unwrapped(runner.model)
        if not isinstance(self.model, SelfDistillation):
            raise ValueError(
                f'CollapseMonitorHook needs a SelfDistillation, not {type(self.model).__name__}: remove the hook'
            )
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
        """Registers hooks on the next forward pass, active until their handles are removed."""
        handles = [loss.register_forward_hook(partial(self.look, name)) for name, loss in losses.items()]
        if self.leak is None:
            handles.append(model.teacher['backbone'].register_forward_hook(self.swap_queries))
        return handles

    @torch.no_grad()
    def look(self, name: str, loss: SelfDistillationLoss, args: tuple, output: Tensor) -> None:
        """Forward hook of a loss: computes statistics of a few rows of student and teacher."""
        student, teacher = args[:2]
        sides = rows_of_first_pair(loss, student, teacher, self.rows)
        if len(sides[0].features):  # iBOT: there may be no masked patch
            with torch.autocast(output.device.type, enabled=False):
                self.seen[name] = term_statistics(loss, *sides)

    def swap_queries(self, backbone: nn.Module, args: tuple, output: ViTOutput) -> None:
        """Forward hook of the teacher's backbone: computes its [CLS] with the query crops of other images."""
        if len(args) > 1 and args[1] is not None and self.leak is None:
            self.leak = output.cls.new_zeros(())  # stops the recursion: the pass below runs this hook, too
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
        """Averages the statistics over processes, logs and judges them; collective call."""
        if 'query' in self.seen and self.leak is not None:
            self.seen['query']['leak'] = self.leak
        names = set(self.losses).intersection(*dist.all_gather_object(set(self.seen)))
        groups = {name: self.seen[name] for name in sorted(names)} | {TEACHER: teacher_statistics(self.model)}
        for name, numbers in fetch_means(groups).items():
            if not all(map(math.isfinite, numbers.values())):  # reported as a skipped step
                self.leak = None  # measure again
                continue
            self.log(runner, name, numbers)
            for verdict in self.judge(runner, name, numbers):
                self.tell(runner, verdict)

    def log(self, runner, name: str, numbers: dict[str, float]) -> None:
        """Writes statistics to the run's history, files and the terminal."""
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
        """Verdicts on the observations since judging began; of a very long run, on the newest (``BoundedHistory``)."""
        columns = {key: runner.message_hub.get_scalar(f'monitor/{name}_{key}').data[0] for key in keys}
        early = (columns['iteration'] <= self.judged_from).sum()
        columns = {key: values[early:] for key, values in columns.items()}
        # The newest observations usually suffice to rule out a verdict; the full history is slow and only adds its start.
        if not self.verdicts(name, {key: values[-self.patience :] for key, values in columns.items()}):
            return []
        return self.verdicts(name, columns)

    def verdicts(self, name: str, columns: dict[str, np.ndarray]) -> list[Verdict]:
        lists = {key: values.tolist() for key, values in columns.items()}
        if name == TEACHER:
            return judge_teacher(lists, self.patience)
        loss = self.losses[name]
        return judge_term(lists, name, Term(len(loss.center), loss.teacher_temp, loss.center_momentum), self.patience)

    def tell(self, runner, verdict: Verdict) -> None:
        if verdict[:2] not in self.told:
            self.told.add(verdict[:2])
            runner.logger.warning(verdict.text)
        if verdict.kind in self.stop_on and self.last_words is None:
            self.last_words = verdict.text

    def end(self, runner) -> None:
        """Saves a checkpoint and ends the run."""
        content = runner.checkpoint_content(runner.iter + 1)
        path = Path(runner.work_dir) / f'iter_{runner.iter + 1}.pth'
        if dist.is_main_process():
            write_checkpoint(content, path)
        raise CollapseError(f'{self.last_words}. Run stopped because of stop_on; checkpoint saved to {path}')
