"""Python programs in processes of their own, without the seconds that imports of torch and mmengine take each of them.

A server (``program_server.py``, one for a process of tests) has these libraries imported and forks for each program, which
imports this package anew. Programs whose start itself is the point are started by ``subprocess`` as ever.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from places import REPO
from torch.distributed import TCPStore

SERVER = REPO / 'tests/program_server.py'
ENVIRONMENT = dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', MPLBACKEND='Agg', CUDA_VISIBLE_DEVICES='')
STREAMS = ('stdout', 'stderr')


@cache
def server() -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    atexit.register(process.communicate)  # the end of its input ends it
    return process


def run_side_by_side(
    commands: Iterable[Iterable],
    environments: Iterable[Mapping[str, str]],
    timeout: float = 300,
    cwd: Path = REPO,
    **streams: Path | str,
) -> list[subprocess.CompletedProcess]:
    """Runs programs at the same time.

    Args:
        commands: Of each, a script, or ``-m`` and a module, and its arguments.
        environments: Of each, what is added to the environment of the tests.
        timeout: Seconds for all together.
        cwd: The folder they start in.
        streams: ``stdout`` or ``stderr``, which are not captured then: a terminal, a pipe with a name.

    Raises:
        subprocess.TimeoutExpired: One had not ended by then; all of them are ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        programs = [
            dict(
                argv=[str(part) for part in command],
                environment=os.environ | ENVIRONMENT | environment,
                cwd=str(cwd),
                **{name: str(streams.get(name, f'{folder}/{number}.{name}')) for name in STREAMS},
            )
            for number, (command, environment) in enumerate(zip(commands, environments, strict=True))
        ]
        process = server()
        process.stdin.write(json.dumps(dict(programs=programs, timeout=timeout)) + '\n')
        process.stdin.flush()
        statuses = json.loads(process.stdout.readline())
        return [completed(program, status, timeout) for program, status in zip(programs, statuses, strict=True)]


def completed(program: dict, status: int | None, timeout: float) -> subprocess.CompletedProcess:
    files = (Path(program[stream]) for stream in STREAMS)
    stdout, stderr = (file.read_text() if file.is_file() else '' for file in files)
    if status is None:
        raise subprocess.TimeoutExpired(program['argv'], timeout, stdout, stderr)
    return subprocess.CompletedProcess(program['argv'], status, stdout, stderr)


def checked(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def python(
    *command, check: bool = True, timeout: float = 300, cwd: Path = REPO, **environment: str
) -> subprocess.CompletedProcess:
    """Runs a script, or ``-m`` and a module, with its arguments; ``check``: it has to end well."""
    (done,) = run_side_by_side([command], [environment], timeout, cwd)
    return checked(done) if check else done


def python_on_ranks(
    count: int, *command, check: bool = True, timeout: float = 300, **environment: str
) -> list[subprocess.CompletedProcess]:
    """Runs it on ``count`` processes that find each other as those of torchrun do, by a store that is here."""
    store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    common = environment | {
        'WORLD_SIZE': str(count),
        'LOCAL_WORLD_SIZE': str(count),
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(store.port),
        'TORCHELASTIC_USE_AGENT_STORE': 'True',
        'TORCHELASTIC_RUN_ID': 'tests',
        'TORCHELASTIC_RESTART_COUNT': '0',
    }
    environments = [common | {'RANK': str(rank), 'LOCAL_RANK': str(rank)} for rank in range(count)]
    done = run_side_by_side([command] * count, environments, timeout)
    return [checked(each) for each in done] if check else done
