"""Worker processes of data loaders, which no signal to the whole run ends."""

from __future__ import annotations

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

# What batch systems, launchers and keyboards send to whole groups of processes: the main process decides what it means.
GROUP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
# From the main process to a worker; nobody else sends it. Systems without real-time signals do not have it.
END: signal.Signals | MaybeNone = getattr(signal, 'SIGRTMAX', None)
LOOK_S = 1.0  # between two looks of a worker whether the main process lives


class _Worker(BaseProcess):
    """A process that signals to its group do not end, but the main process does: with ``terminate()``, and by its own end.

    It is started with the signals blocked, so that there is no moment at which one could end it. Torch's own workers die of
    them (of SIGTERM by their own handler, ``torch/csrc/DataLoader.cpp``) and look for the main process between two batches
    only; here a thread does so at any time, and waits for a signal of its own, which ``terminate()`` sends.
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
        self._popen.terminate = partial(_end, self.pid)  # what multiprocessing calls at exit, too

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, self.deaf_to)  # what was handled when the fork server started may differ
        main: BaseProcess | MaybeNone = multiprocessing.parent_process()
        is_child = self._start_method != 'forkserver'  # of the main process itself
        lives = (lambda: os.getppid() == main.pid) if is_child else main.is_alive
        threading.Thread(target=_obey, args=(lives,), name='end of the main process', daemon=True).start()
        sys.excepthook = _say_unless_hung_up
        super().run()


def _end(pid: int | MaybeNone) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, END)


def _say_unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For the thread that hands tensors over (``multiprocessing.resource_sharer``): Ctrl-C may end the main process within.

    Errors of the data set are passed to the main process and never come here.
    """
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _obey(lives: Callable[[], bool]) -> None:
    """Ends this process when the main process says so or has ended."""
    while lives() and signal.sigtimedwait({END}, LOOK_S) is None:
        pass
    os._exit(0)


class ForkWorker(_Worker, context.ForkProcess):
    """Started as a copy of the main process."""


class SpawnWorker(_Worker, context.SpawnProcess):
    """Started from nothing."""


class ForkServerWorker(_Worker, context.ForkServerProcess):
    """Started by a fork server of these workers alone, which inherits the blocked signals.

    In a worker of the common server, if that was started before, the threads that libraries start when they are imported
    (OpenBLAS) would be open to the signals: one to the process goes to any thread that does not block it.
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


def outlive_signals(loader: DataLoader) -> DataLoader:
    """The same loader; the workers it will start outlive SIGTERM, SIGINT and the like to the group of the run.

    Its start method stays, and nothing about random numbers or a ``worker_init_fn`` changes. Where the system has no
    real-time signals (not Linux), workers stay torch's.
    """
    if getattr(loader, 'num_workers', 0) and END is not None:
        chosen = loader.multiprocessing_context or multiprocessing
        method = chosen.get_start_method()
        processes = {'fork': ForkWorker, 'spawn': SpawnWorker, 'forkserver': ForkServerWorker}
        own = type(multiprocessing.get_context(method))()
        own.Process = processes[method]
        loader.multiprocessing_context = own
    return loader
