"""Saves checkpoints by epoch, iteration and time, and when the run receives a signal."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook

from mmadclr.annotations import MaybeNone
from mmadclr.checkpoint.run_files import clear_away
from mmadclr.checkpoint.writer import CheckpointWriter
from mmadclr.distributed.agreement import Agreement
from mmadclr.registry import HOOKS
from mmadclr.reliability.stop_signals import PREEMPTED, PreemptedError, StopSignals

PATIENCE_S = 8.0  # a process that left validation waits this long for the others; torchrun kills all of them after 30 s


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Saves checkpoints from which a run resumes exactly, in the background, without ever overwriting a good one.

    Checkpoints are saved at the end of an optimizer step; with gradient accumulation, after its last batch. When any process
    receives one of ``signals``, all processes save a checkpoint at the next step and exit with code 85; a second signal
    kills the process at once (see ``StopSignals``). A validation that is running is abandoned and repeated after resuming.

    Args:
        interval: Epochs between checkpoints (iterations with ``by_epoch=False``); None disables them.
        by_epoch: Whether ``interval`` counts epochs.
        minutes: Also saves a checkpoint when this many minutes have passed since the last one; None disables this.
        max_keep_ckpts: Number of most recent checkpoints to keep; -1 keeps all.
        milestones: Keeps every checkpoint whose epoch is a multiple of this permanently.
        signals: Names of the signals that request a stop. Slurm sends SIGTERM, or the one set by ``sbatch --signal``;
            Ctrl-C sends SIGINT, closing a terminal SIGHUP.
        asynchronous: Write in a background thread; training waits only for the copy (and for the previous checkpoint, if it
            is still being written). False: training also waits for the disk.

    Raises:
        ValueError: A number is out of range, or a signal does not exist.
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
                raise ValueError(f'{name}={value} of SafeCheckpointHook must be positive, or None to disable it')
        if max_keep_ckpts != -1 and max_keep_ckpts < 1:
            raise ValueError(f'max_keep_ckpts={max_keep_ckpts} must be at least 1, or -1 to keep all checkpoints')
        self.interval, self.by_epoch, self.minutes = interval, by_epoch, minutes
        self.max_keep_ckpts, self.milestones = max_keep_ckpts, milestones
        self.stop = StopSignals(signals)
        self.asynchronous = asynchronous
        self.due: str | MaybeNone = None  # name of the checkpoint to save at the end of the optimizer step
        self.saved_at: int | None = None  # iterations completed at the last checkpoint
        self.agreement: Agreement | MaybeNone = None  # set during training
        self.held: dict | None = None  # the state being validated, saved if a signal interrupts validation

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
            raise ValueError(f'the last checkpoint of the run was not saved: {self.writer.failure}')

    def before_val(self, runner) -> None:
        """Stops before validation if requested; otherwise prepares the state to save if a signal interrupts validation.

        One process cannot leave validation for the others, so interrupting it needs no collective call.
        """
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
        if self.stop.look():  # the signal arrived just before interrupts were enabled
            raise PreemptedError

    def after_val(self, runner) -> None:
        self.stop.interrupts = False
        if self.held is not None:
            self.held = self.due = None

    def wait_for_checkpoint(self, runner) -> None:
        """Blocks until the checkpoint being written, if any, is on disk."""
        self.writer.wait()

    def leave_training(self, runner) -> None:
        """Restores the previous signal handlers, however the run ended."""
        self.stop.interrupts = False
        try:
            if self.held is not None:
                self.end_validation(runner)
        finally:
            self.stop.ignore_no_longer()

    def end_validation(self, runner) -> None:
        """Saves the held state from the main process alone: the other processes may still wait for each other in validation.

        Also runs if validation failed, as it does when another process has left it.
        """
        if self.held:
            self._write(runner, self.held, Path(runner.work_dir) / self.due)
            self.writer.wait()
        if self.stop.received:
            self.end(runner, runner.iter, PATIENCE_S)
        if self.writer.failure is None:
            runner.logger.warning(
                f'validation failed; checkpoint of the state after iteration {runner.iter} saved, resume with --resume'
            )

    def save(self, runner, done: int) -> None:
        """Saves the state of the run after ``done`` iterations; the main process writes the file."""
        name, self.due, self.last_time, self.saved_at = self.due, None, time.monotonic(), done
        content = runner.checkpoint_content(done)
        self._write(runner, content, Path(runner.work_dir) / name)

    @master_only
    def _write(self, runner, content: dict, path: Path) -> None:
        start = time.perf_counter()
        self.writer.write(content, path)
        if not self.asynchronous:
            self.writer.wait()
        runner.logger.info(f'Saving checkpoint {path.name} (training paused for {time.perf_counter() - start:.1f} s)')

    def end(self, runner, done: int, patience_s: float | None = None) -> None:
        """Ends the run once the checkpoint is on disk; waits for the other processes (at most ``patience_s``)."""
        self.writer.wait()
        # Launchers kill all processes as soon as one has exited, and the main process may still be writing.
        together = self.agreement.meet(patience_s)
        cause = self.stop.received or 'a signal to another process'
        if self.writer.failure is not None:
            raise ValueError(f'{cause}: stopped after iteration {done}, without a checkpoint: {self.writer.failure}')
        runner.logger.warning(f'{cause}: stopped after iteration {done}; checkpoint saved, resume with --resume')
        if not together:
            sys.stdout.flush()
            os._exit(PREEMPTED)  # gloo threads that wait for the other processes would block a normal exit
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
    """Whether iteration ``done`` (from 1) completes an optimizer step: no gradients are left accumulating."""
    counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    return done % counts == 0 or done == runner.max_iters
