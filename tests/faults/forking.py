"""Trainings as copies of this process, which has imported all they need: they start in a second instead of ten.

Each is ``tools/train.py`` in a session, and so a group of processes, of its own. Several find each other by the variables
that a batch system sets, without torchrun.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

from injection import CONFIG, SETTINGS, Training, tool_arguments
from places import REPO


class Ranks:
    """What a ``Training`` asks of a ``subprocess.Popen``, of several processes that end with the same status."""

    def __init__(self, processes: list[multiprocessing.Process]) -> None:
        self.processes, self.pid = processes, processes[0].pid

    @property
    def returncode(self) -> int | None:
        statuses = {process.exitcode for process in self.processes}
        if None in statuses:
            return None
        assert len(statuses) == 1, f'processes ended with {sorted(statuses)}'
        return statuses.pop()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or 0)
        for process in self.processes:
            process.join(None if timeout is None else max(0, end - time.monotonic()))
        if self.poll() is None:
            raise subprocess.TimeoutExpired('trainings', timeout)
        return self.returncode


class ForkedTraining(Training):
    def ranks(self) -> list[int]:
        return [process.pid for process in self.process.processes]

    def kill(self) -> None:
        for process in self.process.processes:
            process.kill()
            process.join()


def fork(
    tmp_path: Path,
    *options: str,
    processes: int = 1,
    config: str | Path = CONFIG,
    arguments: tuple[str, ...] = (),
    work_dir: str = 'work',
    validation: bool = False,
) -> ForkedTraining:
    """As :func:`injection.start`."""
    launcher = ('--launcher', 'pytorch') if processes > 1 else ()
    words = [str(config), *tool_arguments(tmp_path, options, processes, (*launcher, *arguments), work_dir, validation)]
    log = tmp_path / f'{work_dir}_{time.monotonic_ns()}.log'
    log.touch()
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, LOCAL_WORLD_SIZE=processes)
        place |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        environment = SETTINGS | {name: str(value) for name, value in place.items() if processes > 1}
        process = multiprocessing.get_context('fork').Process(target=_train, args=(words, environment, log))
        process.start()
        started.append(process)
    return ForkedTraining(tmp_path / work_dir, Ranks(started), log)


def _train(words: list[str], environment: dict[str, str], log: Path) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = sys.stderr = open(descriptor, 'w', buffering=1)
    os.chdir(REPO)
    os.environ.update(environment)
    sys.path[:0] = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    sys.argv = ['tools/train.py', *words]
    runpy.run_path(sys.argv[0], run_name='__main__')
