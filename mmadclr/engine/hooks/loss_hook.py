"""Keeps losses on the device until they are logged, and records non-finite steps."""

from __future__ import annotations

import math
from pathlib import Path

from mmengine import dist
from mmengine.hooks import LoggerHook, RuntimeInfoHook

from mmadclr.annotations import MaybeNone
from mmadclr.checkpoint.run_files import write_synced
from mmadclr.checkpoint.run_state import random_state
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine.hooks.checkpoint_hook import ends_step
from mmadclr.registry import HOOKS
from mmadclr.reliability.skipped_steps import (
    Step,
    add_to_record,
    broken_weights,
    describe_batches,
    explain,
    fetch,
    newest_checkpoint,
)

REMEDIES = 'Lower the learning rate, clip gradients (optim_wrapper.max_norm), use precision fp32, or inspect the images.'


@HOOKS.register_module()
class LossRecordHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` without a device synchronization per iteration, plus a record of skipped steps.

    mmengine fetches every loss in every iteration. This hook fetches them together when ``LoggerHook`` is about to write, at
    the end of an epoch, and before a checkpoint is saved. It records the mean over all processes for each iteration that was
    not skipped.

    When the optimizer wrapper skips a step because its loss or gradients are not finite, the hook writes one line to the log
    (iteration, rank, images) and one to ``<work_dir>/skipped_steps.jsonl`` (all losses and images); ``skipped`` in the log
    counts them. When the last ``max_skipped`` steps, as of a fetch, were all skipped, the run ends and saves
    ``<work_dir>/nonfinite_iter_<N>.pth``, from which ``--resume`` replays the first of them: skipped steps change
    nothing, so this is the current state with the data position and random states from before that step.

    Args:
        max_skipped: Number of consecutive skipped steps that ends the run.

    Raises:
        ValueError: ``max_skipped`` is less than 1.
        FloatingPointError: Too many consecutive steps were skipped; or weights are not finite (such weights are never
            saved); or a loss is not finite and the optimizer wrapper does not skip steps. Raised on all processes.
    """

    record_name = 'skipped_steps.jsonl'

    def __init__(self, max_skipped: int = 8) -> None:
        super().__init__()
        if max_skipped < 1:
            raise ValueError(f'max_skipped={max_skipped} of LossRecordHook must be at least 1')
        self.max_skipped = max_skipped
        self.step: Step | MaybeNone = None  # in progress
        self.pending: list[Step] = []
        self.first_skipped: Step | MaybeNone = None  # of the current consecutive ones; after resuming, the first since then
        self.is_dumping = False

    def before_train(self, runner) -> None:
        super().before_train(runner)
        self.intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self.in_a_row = runner.message_hub.get_info('skipped_in_a_row', 0)
        self.total = runner.message_hub.get_info('skipped_steps', 0)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        if self.step is None:
            self.step = Step(runner.iter, runner.epoch, random_state())

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.step.losses.append({name: value.detach() for name, value in outputs.items()})  # frees their graphs
        self.step.images.append(data_batch['index'].tolist())
        if ends_step(runner, runner.iter + 1):
            flag = getattr(runner.optim_wrapper, 'skipped', None)
            self.step.skipped = None if flag is None else flag.clone()
            self.pending.append(self.step)
            self.step = None
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if last or any(self.every_n_inner_iters(batch_idx, interval) for interval in self.intervals):
            self.flush_losses(runner)

    def flush_losses(self, runner) -> None:
        """Fetches, checks and records pending losses; collective call. The runner calls it before saving."""
        if not self.pending:
            return
        pending, self.pending = self.pending, []
        local, mean, skipped = fetch(pending)
        for step, here, everywhere, is_skipped in zip(pending, local, mean, skipped, strict=True):
            if is_skipped or not all(math.isfinite(value) for losses in everywhere for value in losses.values()):
                self.account(runner, step, here, is_skipped)
                continue
            self.in_a_row, self.first_skipped = 0, None
            for losses in everywhere:
                for name, value in losses.items():
                    runner.message_hub.update_scalar(f'train/{name}', value)
        if any(skipped) or self.total:
            self.remember(runner)
        if any(skipped):
            self.check_weights(runner)
        if self.in_a_row >= self.max_skipped:
            self.end(runner)

    def account(self, runner, step: Step, losses: list[dict[str, float]], is_skipped: bool) -> None:
        """Logs and records a non-finite step."""
        here = describe_batches(step, losses, runner.train_dataloader.dataset)
        batches = [batch for rank in dist.all_gather_object(here) for batch in rank]
        step.problem = explain(step, batches)
        if not is_skipped:
            raise FloatingPointError(
                f'{step.problem}, and {type(runner.optim_wrapper).__name__} does not skip steps; '
                f'{last_checkpoint(runner)}. {REMEDIES}'
            )
        self.in_a_row, self.total = self.in_a_row + 1, self.total + 1
        self.first_skipped = self.first_skipped or step
        runner.logger.warning(f'step skipped: {step.problem}')
        if dist.is_main_process():
            add_to_record(Path(runner.work_dir) / self.record_name, step, batches)

    def remember(self, runner) -> None:
        """Stores the counts for the log and for checkpoints."""
        runner.message_hub.update_scalar('train/skipped', self.total)
        runner.message_hub.update_info('skipped_in_a_row', self.in_a_row)
        runner.message_hub.update_info('skipped_steps', self.total)

    def check_weights(self, runner) -> None:
        broken = broken_weights(unwrapped(runner.model))
        if broken:
            cause = f'; {self.first_skipped.problem}' if self.first_skipped else ''
            raise FloatingPointError(
                f'{", ".join(broken[:4])}{f" and {len(broken) - 4} more" if len(broken) > 4 else ""}: weights are not '
                f'finite after iteration {runner.iter}, so training cannot continue{cause}; '
                f'{last_checkpoint(runner)}. {REMEDIES}'
            )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if not self.is_dumping:
            self.check_weights(runner)

    def end(self, runner) -> None:
        """Saves a checkpoint that replays the first skipped step, and ends the run."""
        path = Path(runner.work_dir) / f'nonfinite_iter_{self.first_skipped.iteration}.pth'
        self.dump(runner, path)
        raise FloatingPointError(
            f'{self.in_a_row} consecutive steps were skipped because losses or gradients are not finite; the first: '
            f'{self.first_skipped.problem}; '
            f'{last_checkpoint(runner)}; to replay the first of them, resume from {path} (its images are listed in '
            f'{self.record_name}). {REMEDIES}'
        )

    def dump(self, runner, path: Path) -> None:
        """Saves the state of the run before the first skipped step; collective call."""
        self.is_dumping = True
        content = runner.checkpoint_content(self.first_skipped.iteration)
        self.is_dumping = False
        random = dist.all_gather_object(self.first_skipped.random)
        if 'position' in content:
            content['position']['random'] = random
        content['message_hub']['runtime_info'] |= {'skipped_in_a_row': 0}
        if dist.is_main_process():
            write_synced(content, path)  # named so that --resume without a path ignores it


def last_checkpoint(runner) -> str:
    """A description of the run's newest checkpoint, once pending writes are finished."""
    runner.call_hook('wait_for_checkpoint')
    return newest_checkpoint(runner.work_dir)
