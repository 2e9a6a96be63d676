"""Signals from outside, and decisions that all processes have to take at the same iteration."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine import dist
from torch import distributed

PREEMPTED = 85  # exit code of a run that was asked to stop and wrote a checkpoint; free for such use (sysexits end at 78)


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

    def meet(self) -> None:
        """Returns when all processes are here."""
        self.wait()
        if self.group is not None:
            distributed.barrier(self.group)


class StopSignals:
    """Remembers that one of some signals arrived, instead of dying of it at once; a second one of a kind ends the process.

    Args:
        names: For example ``('SIGTERM', 'SIGUSR1')``.

    Raises:
        ValueError: There is no such signal.
    """

    def __init__(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if not hasattr(signal, name)]
        if unknown:
            raise ValueError(f'signals={tuple(names)}: there is no {unknown[0]}')
        self.signals = [getattr(signal, name) for name in names]
        self.received: str | None = None
        self.before: dict[int, object] = {}

    def listen(self) -> None:
        self.before = {number: signal.signal(number, self._remember) for number in self.signals}

    def ignore_no_longer(self) -> None:
        """Puts back what happened on these signals before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _remember(self, number: int, frame) -> None:
        self.received = signal.Signals(number).name
        signal.signal(number, self.before.get(number) or signal.SIG_DFL)


@contextmanager
def sole_use(work_dir: str | Path) -> Iterator[None]:
    """Holds a work dir for this run, which ends with the process however it ends.

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
    """None if the lock is ours now, else who has it. A record lock: loader workers do not inherit it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        return file.read().strip() or 'unknown process'
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}')
    file.flush()
    return None


def _from_main_process(value: str | None) -> list[str | None]:
    values = [value]
    dist.broadcast_object_list(values)
    return values
