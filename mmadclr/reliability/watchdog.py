"""A thread that detects a stalled process, dumps its stacks, and finally ends it."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO

# Exit status of a process ended by the watchdog: EX_IOERR of sysexits.h.
EXIT_HUNG = 74
# Seconds allowed for the final report.
LAST_WORDS_S = 10.0
# Seconds that a worker has to write its stack before the next one is signaled.
TURN_S = 1.0
WORKER_SIGNAL = signal.SIGUSR2
ANSWER = b'Current thread '  # faulthandler's header of the signaled thread, one per process
# Module prefix of a frame -> what the main thread waits for. The innermost matching frame decides.
WAITS = {
    'torch.utils.data': 'the data loader: no batch has arrived',
    'torch.distributed': 'other processes, in a collective operation',
    'mmengine.dist': 'other processes, in a collective operation',
    'torch.autograd': 'the backward pass, which with several processes may wait for the gradients of another one',
    'torch.optim': 'the optimizer step',
    'torch._inductor': 'the compiler',
    'torch._dynamo': 'the compiler',
    'torch.serialization': 'a file being written or read',
    'mmengine.fileio': 'a file being written or read',
}


class Watchdog:
    """Reports when a process stalls for longer than allowed, and ends it when the stall lasts ``abort_s`` longer.

    A stall is the time between two calls of :meth:`beat` as experienced by the watchdog thread: time during which the
    entire process was stopped (SIGSTOP, a suspended machine) does not count. Reports run in separate threads, because
    the file system they write to may be what hangs.

    Args:
        report: Called with the seconds of the stall; may block.
        recovered: Called with the final duration of a reported stall.
        working: Whether the watched work is still running; if not, the watchdog thread ends.
        abort_s: None never ends the process.
        poll_s: Seconds between checks.
        end: Called with ``EXIT_HUNG``.
    """

    def __init__(
        self,
        report: Callable[[float, bool], None],
        recovered: Callable[[float], None],
        working: Callable[[], bool],
        abort_s: float | None,
        poll_s: float = 1.0,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.report, self.recovered, self.working, self.end = report, recovered, working, end
        self.abort_s, self.poll_s = abort_s, poll_s
        self._beats, self._allowed = 0, float('inf')
        self._stopped = threading.Event()

    def beat(self, allowed: float) -> None:
        """Signals progress; up to ``allowed`` seconds may pass until the next call."""
        self._allowed = allowed
        self._beats += 1

    def start(self) -> None:
        threading.Thread(target=self._watch, name='watchdog', daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        beats, silent, reported, last, stopped = self._beats, 0.0, False, time.monotonic(), False
        while not stopped:
            stopped = self._stopped.wait(self.poll_s)
            now = time.monotonic()
            silent, last = silent + min(now - last, 2 * self.poll_s), now
            if self._beats != beats:
                if reported:
                    _in_thread(self.recovered, silent)
                beats, silent, reported = self._beats, 0.0, False
            elif not self.working():
                return
            elif silent > self._allowed and not reported:
                reported = True
                _in_thread(self.report, silent, False)
            elif reported and self.abort_s is not None and silent > self._allowed + self.abort_s:
                _in_thread(self.report, silent, True).join(LAST_WORDS_S)
                self.end(EXIT_HUNG)
                return


def _in_thread(function: Callable, *args) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, name='watchdog report', daemon=True)
    thread.start()
    return thread


class WorkerStacks:
    """Makes forked loader workers dump their stacks on a signal; must be created before they start."""

    def __init__(self) -> None:
        self.file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115, inherited by workers, which outlive this call
        faulthandler.register(WORKER_SIGNAL, self.file, all_threads=True, chain=False)

    def collect(self, patience_s: float = 5.0) -> bytes:
        """Stacks of all child processes that handle the signal, once all have answered or the timeout has passed.

        Workers are signaled one by one: stacks are written in many small pieces, which would otherwise be interleaved.
        """
        start, end = self._size(), time.monotonic() + patience_s
        children = [pid for child in multiprocessing.active_children() if (pid := child.pid) is not None and listens(pid)]
        for asked, child in enumerate(children, 1):
            os.kill(child, WORKER_SIGNAL)
            self._wait(start, asked, min(end, time.monotonic() + TURN_S))
        self._wait(start, len(children), end)
        names = ', '.join(map(str, children)) or 'none'
        return f'\n--- worker processes: {names} ---\n'.encode() + self._written(start)

    def _wait(self, start: int, answers: int, end: float) -> None:
        """Waits until this many answers have arrived and writing has stopped, or until ``end``."""
        size = -1
        while time.monotonic() < end and (self._size() > size or self._written(start).count(ANSWER) < answers):
            size = self._size()
            time.sleep(0.1)

    def _size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def _written(self, start: int) -> bytes:
        return os.pread(self.file.fileno(), self._size() - start, start)

    def close(self) -> None:
        faulthandler.unregister(WORKER_SIGNAL)
        self.file.close()


def listens(pid: int) -> bool:
    """Whether a process handles the signal, which would otherwise kill it (a spawned rather than forked one)."""
    try:
        status = Path(f'/proc/{pid}/status').read_text(encoding='utf-8')
    except OSError:  # the process has exited, or the system is not Linux
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith('SigCgt:')), '0')
    return bool(int(caught, 16) >> (WORKER_SIGNAL - 1) & 1)


def write_stacks(path: Path, workers: WorkerStacks | None) -> None:
    """Writes stacks of all threads of this process, and of its workers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('wb') as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.flush()
        file.write(b'' if workers is None else workers.collect())


def frames(thread: int) -> Iterator[FrameType]:
    """Frames of a thread, innermost first."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        yield frame
        frame = frame.f_back


def waits_for(thread: int) -> str:
    """Describes what a thread waits for, and where in the code."""
    stack = list(frames(thread))
    modules = [frame.f_globals.get('__name__', '') for frame in stack]
    reasons = (reason for module in modules for prefix, reason in WAITS.items() if module.startswith(prefix))
    ours = (frame for frame, module in zip(stack, modules, strict=True) if module.startswith('mmadclr'))
    places = [
        f'{Path(f.f_code.co_filename).name}:{f.f_lineno} in {f.f_code.co_name}' for f in (stack[0], next(ours, stack[0]))
    ]
    return f'{next(reasons, "something else")} ({", called from ".join(dict.fromkeys(places))})'
