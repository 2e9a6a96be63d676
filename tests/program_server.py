"""Forks for every program that :mod:`programs` asks for, with the libraries imported that all of them import.

Lines of JSON on standard input, each a list of programs that run side by side; for each line, one with their exit statuses.
Only libraries that register nothing for others by being imported are here, and nothing of this package: a program that
forgets to import what it needs fails as it would alone. At its end a program does all that Python does, except that the
modules are not taken apart object by object, which would copy most of the memory of the server.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TextIO

import cv2  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import mmengine.runner
import mmengine.visualization  # noqa: F401
import timm  # noqa: F401
import torch._inductor.compile_fx  # noqa: F401
import torchvision.transforms.v2  # noqa: F401
from unformatted import leave_configs_unformatted

# What mmdet, mmseg and mmpretrain import of other libraries takes longer than they themselves.
OF_DENSE = ('scipy.optimize', 'scipy.stats', 'imgaug', 'transformers.modeling_utils')
GRACE_S = 20  # from the failure of one program to the end of those beside it


def redirect(program: dict) -> None:
    """Standard streams, environment and folder of the program, in the process that is to run it."""
    for stream, path in enumerate((os.devnull, program['stdout'], program['stderr'])):
        mode = os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY
        file = os.open(path, mode, 0o600)
        os.dup2(file, stream)
        os.close(file)
    sys.stdin = open(0, closefd=False)
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        setattr(sys, name, reopened(number, getattr(sys, name)))
    os.chdir(program['cwd'])
    os.environ.clear()
    os.environ.update(program['environment'])


def reopened(number: int, before: TextIO) -> TextIO:
    """A standard stream as Python opens it: lines are written as they come to a terminal and to standard error."""
    lines = number == 2 or os.isatty(number)
    return open(number, 'w', 1 if lines else -1, before.encoding, before.errors, closefd=False)


def started(programs: list[dict]) -> dict[int, int] | None:
    """Places of the programs by the process that runs each; None in those processes, which know theirs by ``sys.argv``."""
    processes = {}
    for place, program in enumerate(programs):
        if (pid := os.fork()) == 0:
            os.setpgid(0, 0)  # so that its workers can be ended with it
            redirect(program)
            sys.argv = program['argv']
            return None
        processes[pid] = place
    return processes


def end(processes: dict[int, int], number: int) -> None:
    for pid in processes:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            os.kill(pid, number)  # it has not come to its group yet


def statuses(processes: dict[int, int], timeout: float) -> list[int | None]:
    """Of all programs, None for those that were ended because of the time; where one fails, the others are asked to stop."""
    found: list[int | None] = [None] * len(processes)
    deadline, failed = time.monotonic() + timeout, False
    while processes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in processes:
            found[processes.pop(pid)] = os.waitstatus_to_exitcode(status)
            if status and not failed:
                failed, deadline = True, min(deadline, time.monotonic() + GRACE_S)
                end(processes, signal.SIGTERM)
        elif time.monotonic() > deadline:
            end(processes, signal.SIGKILL)
            for pid in processes:
                os.waitpid(pid, 0)
            break
        else:
            time.sleep(0.005)
    return found


def serve() -> bool:
    """True in a process that is to run a program, False in the server when nothing is asked any more."""
    while line := sys.stdin.readline():
        request = json.loads(line)
        processes = started(request['programs'])
        if processes is None:
            return True
        try:
            found = statuses(processes, request['timeout'])
        finally:  # Ctrl-C
            end(processes, signal.SIGKILL)
        os.write(1, json.dumps(found).encode() + b'\n')
    return False


def run() -> None:
    """The script or, after ``-m``, the module that ``sys.argv`` names, as Python itself would run it."""
    sys.path[1:1] = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))
    if sys.argv[0] == '-m':
        del sys.argv[0]
        sys.path[0] = os.getcwd()
        runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
        runpy.run_path(sys.argv[0], run_name='__main__')


def status_of(program: Callable[[], None]) -> int:
    """What Python would exit with; errors are written as it would. Ctrl-C is left to it."""
    try:
        program()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except Exception:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def leave(status: int) -> NoReturn:
    """Ends the process: threads, functions of ``atexit`` and streams first."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status & 0xFF)


if __name__ == '__main__':
    leave_configs_unformatted()
    for name in OF_DENSE:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # programs neither look through nor copy what is here
    if serve():
        leave(status_of(run))
