"""Detects hung runs: dumps the stacks of a stalled process, and ends it if it stays stalled."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from mmengine.hooks import Hook

from mmadclr.annotations import MaybeNone
from mmadclr.registry import HOOKS
from mmadclr.reliability.watchdog import EXIT_HUNG, Watchdog, WorkerStacks, frames, waits_for, write_stacks


@HOOKS.register_module()
class WatchdogHook(Hook):
    """Detects, on each process separately, that iterations no longer finish.

    After ``timeout_s`` it writes the stacks of all threads and loader workers to ``<work_dir>/stacks/<time>_rank<r>.txt``
    and logs what the training thread waits for. If nothing progresses for another ``abort_s``, the process exits with
    status 74. A file system that hangs temporarily causes at most a warning. The default timeout per iteration is below the
    10 minutes after which NCCL aborts a process. The cost per step is storing two numbers.

    Args:
        timeout_s: Maximum seconds per iteration, including saving checkpoints and starting an epoch.
        first_s: Maximum for the first iteration, which compiles blocks and starts workers.
        val_s: Maximum for a full evaluation.
        abort_s: Seconds between the report and the exit of the process; None never exits.

    Raises:
        ValueError: A time is not positive.
    """

    def __init__(
        self, timeout_s: float = 300, first_s: float = 3600, val_s: float = 7200, abort_s: float | None = 1500
    ) -> None:
        for name, value in dict(timeout_s=timeout_s, first_s=first_s, val_s=val_s, abort_s=abort_s).items():
            if (value is None and name != 'abort_s') or (value is not None and not value > 0):
                raise ValueError(f'WatchdogHook: {name}={value} must be above 0')
        self.timeout_s, self.first_s, self.val_s, self.abort_s = timeout_s, first_s, val_s, abort_s
        self.watchdog: Watchdog | MaybeNone = None  # while training

    def before_train(self, runner) -> None:
        self.runner, self.thread = runner, threading.get_ident()
        # Only the main thread can install the signal handler that workers use.
        self.workers = WorkerStacks() if threading.current_thread() is threading.main_thread() else None
        self.watchdog = Watchdog(
            self.report, self.recovered, self.training, self.abort_s, poll_s=min(1.0, self.timeout_s / 4)
        )
        self.watchdog.beat(self.first_s)
        self.watchdog.start()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.watchdog.beat(self.timeout_s)

    def before_val(self, runner) -> None:
        if self.watchdog:
            self.watchdog.beat(self.val_s)

    def after_val(self, runner) -> None:
        if self.watchdog:
            self.watchdog.beat(self.timeout_s)

    def after_train(self, runner) -> None:
        self.watchdog.stop()
        self.watchdog = None
        if self.workers:
            self.workers.close()

    def training(self) -> bool:
        """Whether the training loop is still on the stack; an exception may have left it."""
        loop = type(self.runner.train_loop).run.__code__
        return any(frame.f_code is loop for frame in frames(self.thread))

    def report(self, seconds: float, final: bool) -> None:
        """Logs what the process waits for (as ERROR: other ranks log nothing below it) and writes the stacks."""
        who = f'rank {self.runner.rank}: no iteration has ended for {seconds:.0f} s (iteration {self.runner.iter})'
        path = Path(self.runner.work_dir) / 'stacks' / f'{time.strftime("%Y%m%d_%H%M%S")}_rank{self.runner.rank}.txt'
        reason = waits_for(self.thread)
        ends = 'it keeps waiting' if self.abort_s is None else f'it exits if nothing progresses for {self.abort_s:g} s more'
        then = f'exits with status {EXIT_HUNG}; resume from the last checkpoint with --resume' if final else ends
        self.runner.logger.error(f'{who}; it waits for {reason}. All stacks: {path}; {then}')
        write_stacks(path, self.workers)

    def recovered(self, seconds: float) -> None:
        self.runner.logger.error(f'rank {self.runner.rank}: resumed after {seconds:.0f} s')
