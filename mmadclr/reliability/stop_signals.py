"""Signals that ask a run to stop: remembered, so that it can end in good order after a checkpoint."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import distributed

PREEMPTED = 85  # exit code of a run that was asked to stop and wrote a checkpoint; free for such use (sysexits end at 78)
REPEAT_S = 1.0  # a signal that comes sooner after the first is the same wish


class PreemptedError(SystemExit):
    """The run was asked to stop by a signal, has written a checkpoint, and ends with exit code ``PREEMPTED``."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


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
        self.before: dict[int, Any] = {}  # handlers
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
