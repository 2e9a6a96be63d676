"""Signals from outside, and decisions that all processes have to take at the same iteration."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import distributed

PREEMPTED = 85  # exit code of a run that was asked to stop and wrote a checkpoint; free for such use (sysexits end at 78)
TAKEN = (errno.EACCES, errno.EAGAIN)  # what POSIX has for a lock that another process holds; others: there are no locks
REPEAT_S = 1.0  # a signal that comes sooner after the first is the same wish


class PreemptedError(SystemExit):
    """The run was asked to stop by a signal, has written a checkpoint, and ends with exit code ``PREEMPTED``."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class Agreement:
    """Makes what one process wants known to all, without ever waiting for a device.

    Wishes are exchanged beside the work of an iteration and known to all at the next: every process gets the same answer at
    the same iteration. With a single process the answer is immediate.
    """

    def __init__(self) -> None:
        # NCCL would queue the exchange behind the work of the GPU; gloo runs on a thread of the CPU.
        self.group = distributed.new_group(backend='gloo') if dist.is_distributed() else None
        self.pending: tuple[distributed.Work, torch.Tensor] | None = None

    def exchange(self, wishes: Sequence[bool]) -> list[bool]:
        """Which wishes any process had at the previous call (with one process: at this one)."""
        if self.group is None:
            return list(wishes)
        known = self.wait()
        mine = torch.tensor(wishes, dtype=torch.int32)
        self.pending = distributed.all_reduce(mine, distributed.ReduceOp.MAX, self.group, async_op=True), mine
        return known or [False] * len(wishes)

    def wait(self) -> list[bool] | None:
        """Ends the exchange that is under way, if there is one."""
        if self.pending is None:
            return None
        work, result = self.pending
        self.pending = None
        work.wait()
        return [bool(value) for value in result.tolist()]

    def decide(self, wish: bool) -> bool:
        """Whether any process wishes so now; all have to ask, and wait for each other."""
        known = self.exchange([wish])
        return (self.wait() or known)[0]

    def meet(self, patience_s: float | None = None) -> bool:
        """Returns when all processes are here; with ``patience_s``, False when some have not come in time."""
        self.wait()
        if self.group is None:
            return True
        if patience_s is None:
            distributed.barrier(self.group)
            return True
        try:
            distributed.barrier(self.group, async_op=True).wait(timedelta(seconds=patience_s))
        except RuntimeError:  # time is up, or another process has ended
            return False
        return True


class StopSignals:
    """Remembers that one of some signals arrived, instead of dying of it at once; a second one ends the process at once.

    A second one of the same kind, or of any kind after SIGINT (to the processes it started, torchrun passes a second Ctrl-C
    on as SIGTERM), if it comes ``REPEAT_S`` after the first: ``timeout`` sends its signal twice, to its child and to the
    group, and so does torchrun when it gets it twice. The end of torchrun itself counts as a signal.

    Args:
        names: For example ``('SIGTERM', 'SIGUSR1')``. SIGHUP is left alone where it is ignored, as under ``nohup``.

    Raises:
        ValueError: There is no such signal.
    """

    def __init__(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if not hasattr(signal, name)]
        if unknown:
            raise ValueError(f'signals={tuple(names)}: there is no {unknown[0]}')
        self.signals = [getattr(signal, name) for name in names]
        self.received: str | None = None
        self.times: dict[int, float] = {}  # when the first of each kind came
        self.interrupts = False  # whether one raises a PreemptedError in the main thread, wherever that is
        self.before: dict[int, object] = {}
        self.launcher: int | None = None

    def listen(self) -> None:
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
        self.before = {number: signal.signal(number, self._remember) for number in self.signals if number not in ignored}
        self.launcher = os.getppid() if distributed.is_torchelastic_launched() else None

    def ignore_no_longer(self) -> None:
        """Puts back what happened on these signals before."""
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by other than Python code
        self.before = {}

    def look(self) -> bool:
        """Whether the run is to stop."""
        if self.received is None and self.launcher is not None and os.getppid() != self.launcher:
            self.received = 'torchrun has ended'  # of a signal that it does not pass on
        return self.received is not None

    def _remember(self, number: int, frame) -> None:
        first = self.times.get(number, self.times.get(signal.SIGINT))
        if first is not None and time.monotonic() - first > REPEAT_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.times.setdefault(number, time.monotonic())
        if self.received is None:
            self.received = signal.Signals(number).name
            _say(f'{self.received}: the run stops after a checkpoint; again, to end at once')
            if self.interrupts:
                raise PreemptedError


def _say(line: str) -> None:
    """Writes to standard error from a signal handler, which may have come in the middle of another line being written."""
    with suppress(OSError):  # a terminal that was closed
        os.write(2, f'\n{line}\n'.encode())


@contextmanager
def sole_use(work_dir: str | Path) -> Iterator[None]:
    """Holds a work dir for this run, which ends with the process however it ends.

    Where the file system has no locks (some network and parallel file systems), the run goes on with a warning.

    Raises:
        ValueError: Another run lives there; on every process.
    """
    file, owner = None, None
    if dist.is_main_process():
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        file = (Path(work_dir) / '.running').open('a+')
        owner = _try_to_own(file)
    (owner,) = _from_main_process(owner)
    try:
        if owner is not None:
            raise ValueError(
                f'{work_dir} is in use by a run that lives ({owner}): wait for its end, or choose another --work-dir'
            )
        yield
    finally:
        if file is not None:
            file.close()


def _try_to_own(file) -> str | None:
    """None if the lock is ours now, or there are none, else who has it. A record lock: loader workers do not inherit it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            file.seek(0)
            return file.read().strip() or 'unknown process'
        print_log(
            f'{file.name} cannot be locked ({error.strerror}): nothing keeps a second run out of this work dir; see to it '
            'that there is one alone',
            'current',
            logging.WARNING,
        )
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}')
    file.flush()
    return None


def _from_main_process(value: str | None) -> list[str | None]:
    values = [value]
    dist.broadcast_object_list(values)
    return values
