"""Loader workers that are not killed by signals sent to the process group of the run."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import context, forkserver
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from torch.utils.data import DataLoader

from mmadclr.annotations import MaybeNone

# Signals sent to process groups by batch systems, launchers and keyboards: only the main process handles them.
GROUP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
# From the main process to a worker; not used otherwise. Systems without real-time signals do not have it.
END: signal.Signals | MaybeNone = getattr(signal, 'SIGRTMAX', None)
LOOK_S = 1.0  # between two checks of a worker that the main process is alive


class _Worker(BaseProcess):
    """A process that ignores signals to its group, and ends only by ``terminate()`` or when the main process ends.

    It is started with the signals blocked, so that none can kill it at any time. Torch's workers are killed by
    these signals (SIGTERM by their own handler, ``torch/csrc/DataLoader.cpp``) and check for the main process only between
    batches; here a thread checks continuously, and waits for a separate signal sent by ``terminate()``.
    """

    deaf_to: frozenset[int] = frozenset()
    _popen: Any  # of multiprocessing, as the next
    _start_method: str

    def start(self) -> None:
        handled = {n for n in signal.valid_signals() - {signal.SIGCHLD} if callable(signal.getsignal(n))}
        self.deaf_to = GROUP_SIGNALS | handled | {END}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self.deaf_to)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._popen.terminate = partial(_end, self.pid)  # also called by multiprocessing at exit

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, self.deaf_to)  # handlers may differ from when the fork server started
        main: BaseProcess | MaybeNone = multiprocessing.parent_process()
        is_child = self._start_method != 'forkserver'  # a direct child of the main process
        lives = (lambda: os.getppid() == main.pid) if is_child else main.is_alive
        threading.Thread(target=_obey, args=(lives,), name='end of the main process', daemon=True).start()
        sys.excepthook = _say_unless_hung_up
        super().run()


def _end(pid: int | MaybeNone) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, END)


def _say_unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For the thread that transfers tensors (``multiprocessing.resource_sharer``): Ctrl-C may end the main process.

    Errors of the data set are passed to the main process and are not affected.
    """
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _obey(lives: Callable[[], bool]) -> None:
    """Ends this process on request of the main process, or after its end."""
    while lives() and signal.sigtimedwait({END}, LOOK_S) is None:
        pass
    os._exit(0)


class ForkWorker(_Worker, context.ForkProcess):
    """Forked from the main process."""


class SpawnWorker(_Worker, context.SpawnProcess):
    """Started as a fresh process."""


class ForkServerWorker(_Worker, context.ForkServerProcess):
    """Started by a separate fork server, which inherits the blocked signals.

    If the common fork server was already running, threads started by imported libraries
    (OpenBLAS) would receive the signals: a signal goes to any thread that does not block it.
    """

    server = forkserver.ForkServer()

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        common = forkserver.connect_to_new_process
        forkserver.connect_to_new_process = ForkServerWorker.server.connect_to_new_process
        try:
            return context.ForkServerProcess._Popen(process_obj)
        finally:
            forkserver.connect_to_new_process = common


class _Flag:
    """What torch uses of ``multiprocessing.Event``, without its lock.

    A worker that is killed while it holds the lock would leave the main process waiting for it for ever, at the end of the
    loader.
    """

    def __init__(self, chosen: context.BaseContext) -> None:
        self.value = chosen.RawValue(ctypes.c_bool, False)

    def is_set(self) -> bool:
        return self.value.value

    def set(self) -> None:
        self.value.value = True


def outlive_signals(loader: DataLoader) -> DataLoader:
    """Makes the workers of a loader survive SIGTERM, SIGINT and similar signals to the run's process group.

    One that is killed all the same (SIGKILL, as by the system when memory runs out) leaves no lock behind that the main
    process waits for. Start method, random numbers and ``worker_init_fn`` are unchanged. On systems without real-time
    signals (not Linux), torch's workers are used.
    """
    if getattr(loader, 'num_workers', 0) and END is not None:
        chosen = loader.multiprocessing_context or multiprocessing
        method = chosen.get_start_method()
        processes = {'fork': ForkWorker, 'spawn': SpawnWorker, 'forkserver': ForkServerWorker}
        own = type(multiprocessing.get_context(method))()
        own.Process = processes[method]
        own.Event = partial(_Flag, own)
        loader.multiprocessing_context = own
    return loader
