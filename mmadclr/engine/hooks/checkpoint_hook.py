"""Checkpoints by epochs, iterations and minutes, and on request from outside."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook

from mmadclr.checkpoint.run_files import clear_away
from mmadclr.checkpoint.writer import CheckpointWriter
from mmadclr.console.libraries import FILE_ONLY
from mmadclr.distributed.agreement import Agreement
from mmadclr.registry import HOOKS
from mmadclr.reliability.stop_signals import PREEMPTED, PreemptedError, StopSignals

PATIENCE_S = 8.0  # of a process that has left a validation for the others, within the 30 s that torchrun gives all


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Writes checkpoints from which a run goes on exactly, beside training, and never at the cost of one that is good.

    All are written at the end of an optimizer step: while gradients of several batches accumulate, at its end. When one of
    ``signals`` arrives at any process, all write a checkpoint at the next step and end with exit code 85; a second signal
    ends a process at once (see ``StopSignals``). A validation is left for it, and made up for by the run that goes on.

    Args:
        interval: A checkpoint every so many epochs, or iterations with ``by_epoch=False``; None for none.
        by_epoch: What ``interval`` counts.
        minutes: A checkpoint after so many minutes without one, too; None for none.
        max_keep_ckpts: Number of newest checkpoints that are kept; -1 for all.
        milestones: Every so many epochs, a checkpoint is kept for good.
        signals: Names of signals that mean: stop soon. Slurm sends SIGTERM, or what ``--signal`` of ``sbatch`` says;
            Ctrl-C is SIGINT, a terminal that is closed SIGHUP.
        asynchronous: Write on a thread while training goes on, which waits for the copy alone (and for the checkpoint
            before, should that still be written). False: training waits for the disk, too.

    Raises:
        ValueError: A number is out of range, or there is no such signal.
    """

    priority = 'VERY_LOW'

    def __init__(
        self,
        interval: int | None = 1,
        by_epoch: bool = True,
        minutes: float | None = None,
        max_keep_ckpts: int = 2,
        milestones: int | None = None,
        signals: Sequence[str] = ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'),
        asynchronous: bool = True,
    ) -> None:
        for name, value in (('interval', interval), ('minutes', minutes), ('milestones', milestones)):
            if value is not None and value <= 0:
                raise ValueError(f'{name}={value} of SafeCheckpointHook must be positive, or None for never')
        if max_keep_ckpts != -1 and max_keep_ckpts < 1:
            raise ValueError(f'max_keep_ckpts={max_keep_ckpts}: keep 1 or more checkpoints, or all with -1')
        self.interval, self.by_epoch, self.minutes = interval, by_epoch, minutes
        self.max_keep_ckpts, self.milestones = max_keep_ckpts, milestones
        self.stop = StopSignals(signals)
        self.asynchronous = asynchronous
        self.due: str | None = None  # name of a checkpoint that waits for the end of an optimizer step
        self.saved_at: int | None = None  # iterations done at the newest checkpoint
        self.agreement: Agreement | None = None  # while training
        self.held: dict | None = None  # the state that a validation looks at, in case that a signal ends it

    def before_train(self, runner) -> None:
        self.agreement = Agreement()
        self.writer = CheckpointWriter(runner.logger.error, lambda: self.clear_away(runner.work_dir))
        self.last_time = time.monotonic()
        self.stop.listen()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        done = runner.iter + 1
        is_late = self.minutes is not None and time.monotonic() - self.last_time > 60 * self.minutes
        stop, is_late = self.agreement.exchange([self.stop.look(), is_late and is_main_process()])
        is_turn = self.interval is not None and not self.by_epoch and done % self.interval == 0
        if self.due is None and (stop or is_late or is_turn):
            self.due = f'iter_{done}.pth'
        if self.due is not None and ends_step(runner, done):
            self.save(runner, done)
            if stop:
                self.end(runner, done)

    def after_train_epoch(self, runner) -> None:
        epoch = runner.epoch + 1
        is_turn = self.by_epoch and self.interval is not None and epoch % self.interval == 0
        if is_turn or epoch == runner.max_epochs or self.is_milestone_epoch(epoch):
            self.due = f'epoch_{epoch}.pth'
            if ends_step(runner, runner.iter):
                self.save(runner, runner.iter)

    def after_train(self, runner) -> None:
        self.agreement.wait()
        self.writer.wait()
        if self.writer.failure is not None:
            raise ValueError(f'the last checkpoint of the run is missing: {self.writer.failure}')

    def before_val(self, runner) -> None:
        """Stops before a validation if asked to, else holds the state ready: one process cannot leave it for the others."""
        if self.agreement is None or not ends_step(runner, runner.iter):
            return
        if self.saved_at != runner.iter:
            self.due = f'iter_{runner.iter}.pth'
        if self.agreement.decide(self.stop.look()):
            if self.due:
                self.save(runner, runner.iter)
            self.end(runner, runner.iter)
        self.held = runner.checkpoint_content(runner.iter) if self.due else {}
        self.stop.interrupts = True
        if self.stop.look():  # it came just before it could interrupt
            raise PreemptedError

    def after_val(self, runner) -> None:
        self.stop.interrupts = False
        if self.held is not None:
            self.held = self.due = None

    def wait_for_checkpoint(self, runner) -> None:
        """Returns when the checkpoint that is being written, if there is one, is on the disk."""
        self.writer.wait()

    def leave_training(self, runner) -> None:
        """However the run ended: signals mean again what they meant before."""
        self.stop.interrupts = False
        try:
            if self.held is not None:
                self.end_validation(runner)
        finally:
            self.stop.ignore_no_longer()

    def end_validation(self, runner) -> None:
        """Writes the state held, by the main process alone: the others may wait for each other in the validation.

        Also if the validation has failed, as it does when another process has left it.
        """
        if self.held:
            self._write(runner, self.held, Path(runner.work_dir) / self.due)
            self.writer.wait()
        if self.stop.received:
            self.end(runner, runner.iter, PATIENCE_S)
        if self.writer.failure is None:
            runner.logger.warning(
                f'a validation has failed; what it looked at, after iteration {runner.iter}, is in a checkpoint; go on with '
                '--resume'
            )

    def save(self, runner, done: int) -> None:
        """Takes the state of the run after ``done`` iterations; the main process writes it."""
        name, self.due, self.last_time, self.saved_at = self.due, None, time.monotonic(), done
        content = runner.checkpoint_content(done)
        self._write(runner, content, Path(runner.work_dir) / name)

    @master_only
    def _write(self, runner, content: dict, path: Path) -> None:
        start = time.perf_counter()
        self.writer.write(content, path)
        if not self.asynchronous:
            self.writer.wait()
        text = f'Saving checkpoint {path.name} (training paused for {time.perf_counter() - start:.1f} s)'
        runner.logger.info(text, extra=FILE_ONLY)

    def end(self, runner, done: int, patience_s: float | None = None) -> None:
        """Ends the run, once the checkpoint is on the disk; waits for the other processes, or only for some time."""
        self.writer.wait()
        # Launchers kill all others as soon as one has ended, and the main process may still write.
        together = self.agreement.meet(patience_s)
        cause = self.stop.received or 'a signal to another process'
        if self.writer.failure is not None:
            raise ValueError(f'{cause}: stopped after iteration {done}, without a checkpoint: {self.writer.failure}')
        runner.logger.warning(f'{cause}: stopped after iteration {done}, with a checkpoint; go on with --resume')
        if not together:
            sys.stdout.flush()
            os._exit(PREEMPTED)  # threads of gloo, which wait for the others, would hold up any other end
        raise PreemptedError

    def clear_away(self, work_dir: str) -> None:
        if self.max_keep_ckpts != -1:
            clear_away(work_dir, self.max_keep_ckpts, self.is_milestone)

    def is_milestone(self, path: Path) -> bool:
        epoch = re.fullmatch(r'epoch_(\d+)\.pth', path.name)
        return epoch is not None and self.is_milestone_epoch(int(epoch[1]))

    def is_milestone_epoch(self, epoch: int) -> bool:
        return self.milestones is not None and epoch % self.milestones == 0


def ends_step(runner, done: int) -> bool:
    """Whether iteration number ``done`` (from 1) ends an optimizer step: no gradients wait for those of further batches."""
    counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    return done % counts == 0 or done == runner.max_iters
