"""No run hangs for ever: stacks of a silent run are written down, and it ends when it stays silent."""

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
    """Notices that no iteration ends any more, on each process by itself.

    After ``timeout_s`` the stacks of all threads and of the loader's workers go to ``<work_dir>/stacks/<time>_rank<r>.txt``,
    and one line of the log says what the training thread waits for. When nothing has moved after ``abort_s`` more, the
    process ends with status 74. A file system that hangs for a while and comes back costs a warning at most. The default
    for iterations is below the 10 minutes after which NCCL ends a process by itself. A step pays for storing two numbers.

    Args:
        timeout_s: Seconds an iteration may take, saving of a checkpoint and start of an epoch included.
        first_s: The same for the first iteration, in which blocks are compiled and workers start.
        val_s: For a whole evaluation.
        abort_s: Seconds between the report and the end of the process; None for no end.

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
        # The signal that workers answer to can be set by the main thread only.
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
        """Whether the training loop is still on the stack; it may have been left by an exception."""
        loop = type(self.runner.train_loop).run.__code__
        return any(frame.f_code is loop for frame in frames(self.thread))

    def report(self, seconds: float, final: bool) -> None:
        """Logs what is waited for (on every rank: lines below ERROR are those of the first only) and writes the stacks."""
        who = f'rank {self.runner.rank}: no iteration has ended for {seconds:.0f} s (iteration {self.runner.iter})'
        path = Path(self.runner.work_dir) / 'stacks' / f'{time.strftime("%Y%m%d_%H%M%S")}_rank{self.runner.rank}.txt'
        reason = waits_for(self.thread)
        ends = 'it is left waiting' if self.abort_s is None else f'it is ended if nothing moves for {self.abort_s:g} s more'
        then = f'ended with status {EXIT_HUNG}; go on from the last checkpoint with --resume' if final else ends
        self.runner.logger.error(f'{who}; it waits for {reason}. All stacks: {path}; {then}')
        write_stacks(path, self.workers)

    def recovered(self, seconds: float) -> None:
        self.runner.logger.error(f'rank {self.runner.rank}: goes on after {seconds:.0f} s')
