"""Signals that request a stop, which are recorded so that the run can save a checkpoint first."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import distributed

PREEMPTED = (
    85  # exit code of a run that stopped on request after saving a checkpoint; above sysexits' codes, which end at 78
)
REPEAT_S = 1.0  # a signal sooner than this after the first one is the same request


class PreemptedError(SystemExit):
    """The run was asked to stop by a signal, has saved a checkpoint, and exits with code ``PREEMPTED``."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class StopSignals:
    """Records the arrival of a stop signal instead of exiting immediately; a second one kills the process at once.

    A second one means: the same signal, or any after SIGINT (torchrun forwards a second Ctrl-C as SIGTERM), at least
    ``REPEAT_S`` after the first: ``timeout`` sends its signal twice, to its child and to the process group, and so does
    torchrun when it receives it twice. The exit of torchrun itself also counts as a signal.

    Args:
        names: For example ``('SIGTERM', 'SIGUSR1')``. SIGHUP is not handled if it is ignored, as under ``nohup``.

    Raises:
        ValueError: There is no such signal.
    """

    def __init__(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if not hasattr(signal, name)]
        if unknown:
            raise ValueError(f'signals={tuple(names)}: there is no signal {unknown[0]}')
        self.signals = [getattr(signal, name) for name in names]
        self.received: str | None = None
        self.times: dict[int, float] = {}  # arrival of the first one of each kind
        self.interrupts = False  # whether signals raise PreemptedError in the main thread
        self.before: dict[int, Any] = {}  # handlers
        self.launcher: int | None = None

    def listen(self) -> None:
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
        self.before = {number: signal.signal(number, self._remember) for number in self.signals if number not in ignored}
        self.launcher = os.getppid() if distributed.is_torchelastic_launched() else None

    def ignore_no_longer(self) -> None:
        """Restores the previous signal handlers."""
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python code
        self.before = {}

    def look(self) -> bool:
        """Whether the run should stop."""
        if self.received is None and self.launcher is not None and os.getppid() != self.launcher:
            self.received = 'torchrun has ended'  # by a signal that it does not forward
        return self.received is not None

    def _remember(self, number: int, frame) -> None:
        first = self.times.get(number, self.times.get(signal.SIGINT))
        if first is not None and time.monotonic() - first > REPEAT_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.times.setdefault(number, time.monotonic())
        if self.received is None:
            self.received = signal.Signals(number).name
            _say(f'{self.received}: stopping after a checkpoint; send it again to exit immediately')
            if self.interrupts:
                raise PreemptedError


def _say(line: str) -> None:
    """Writes to standard error from a signal handler, which may interrupt another write."""
    with suppress(OSError):  # closed terminal
        os.write(2, f'\n{line}\n'.encode())
