"""Jobs: commands with their own folder, whose results are cached with a fingerprint of their inputs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmadclr.compare.table import Metrics
from mmadclr.files import atomic_path
from mmadclr.shipped import importable

STAMP, RESULT, LOG = 'job.json', 'result.json', 'output.log'
LOG_LINES = 15
POLL_S = 0.1


class JobError(Exception):
    """The command of a job failed; the message has the end of its output."""


class Job(NamedTuple):
    """A command and how its result is read.

    Attributes:
        folder: For everything the job writes.
        command: Run in the current folder; can be resumed by running it again. None: nothing to run.
        identity: Everything the result depends on besides ``needs``; of JSON types, or with an unambiguous ``str``.
        read: Metrics from the job's folder, and the peak memory of its process in MiB (0: unknown).
        config: Written to ``folder/config.py`` first.
        needs: A job that must be finished first.
    """

    folder: Path
    command: list[str] | None
    identity: Mapping[str, Any]
    read: Callable[[Path, float], Metrics]
    config: Config | None = None
    needs: Job | None = None

    def fingerprint(self) -> str:
        """Hash of the identity of this job and of those it needs."""
        parts = [self.identity, self.needs.fingerprint() if self.needs else None]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def result_of(job: Job) -> Metrics | None:
    """Metrics of a finished job; None if it is not finished, or its fingerprint has changed."""
    file = job.folder / RESULT
    if not file.is_file():
        return None
    result = json.loads(file.read_text())
    return result['metrics'] if result['fingerprint'] == job.fingerprint() else None


def run_job(job: Job, say: Callable[[str], None] = print) -> Metrics:
    """Runs or resumes a job, and saves its result.

    Raises:
        JobError: A job it needs is not finished, its command failed, or its result cannot be read.
        FileExistsError: Its folder contains other files.
    """
    if job.needs is not None and result_of(job.needs) is None:
        raise JobError(f'needs the result of {job.needs.folder}: run the part pretraining first')
    prepare_folder(job, say)
    status, memory = run_command(job.command, job.folder / LOG) if job.command else (0, 0.0)
    if status:
        raise JobError(f'exit status {status}; the end of {job.folder / LOG}:\n{end_of(job.folder / LOG)}')
    try:
        metrics = job.read(job.folder, memory)
    except (OSError, LookupError, ValueError) as error:
        raise JobError(f'no readable result in {job.folder}: {error}') from error
    _write_json(job.folder / RESULT, {'fingerprint': job.fingerprint(), 'metrics': metrics})
    return metrics


def prepare_folder(job: Job, say: Callable[[str], None]) -> None:
    """Creates the job's folder, or reuses that of the same job; renames the folder of a different one."""
    stamp = job.folder / STAMP
    if stamp.is_file() and json.loads(stamp.read_text())['fingerprint'] != job.fingerprint():
        aside = next(path for number in count(1) if not (path := Path(f'{job.folder}.old{number}')).exists())
        say(f'{job.folder}: config or options have changed, starting from scratch; moved the old folder to {aside}')
        job.folder.rename(aside)
    elif not stamp.is_file() and job.folder.is_dir() and any(job.folder.iterdir()):
        raise FileExistsError(f'{job.folder} contains unrelated files: choose another --out, or remove them')
    job.folder.mkdir(parents=True, exist_ok=True)
    _write_json(stamp, {'fingerprint': job.fingerprint(), 'identity': job.identity})
    if job.config is not None:
        (job.folder / 'config.py').write_text(job.config.pretty_text)


def run_command(command: list[str], log: Path) -> tuple[int, float]:
    """Runs a command, appending its output to ``log``; returns exit status and peak resident memory in MiB.

    The memory is that of the command's own process, without workers; 0 if the system does not report it.
    """
    memory = 0.0
    with log.open('ab') as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=importable(os.environ))
        try:
            while process.poll() is None:
                memory = max(memory, peak_memory(process.pid))
                time.sleep(POLL_S)
        except BaseException:
            process.terminate()  # training runs then save a checkpoint and exit
            process.wait()
            raise
    return process.returncode, memory


def peak_memory(pid: int) -> float:
    """Peak resident memory of a process so far, in MiB; 0 if it has exited, or on systems without /proc.

    ``ru_maxrss`` is not usable: it is at least the memory of the parent process.
    """
    try:
        found = re.search(r'VmHWM:\s*(\d+) kB', Path(f'/proc/{pid}/status').read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def end_of(log: Path) -> str:
    """The last lines of a log."""
    return '\n'.join(log.read_text(errors='replace').splitlines()[-LOG_LINES:])


def scalars(folder: Path) -> list[dict[str, float]]:
    """Logged values of a run in order, including all its restarts."""
    files = sorted(folder.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def last_logged(folder: Path, name: str) -> float:
    """The last value of a name in the log; raises KeyError if there is none."""
    values = [line[name] for line in scalars(folder) if name in line]
    if not values:
        raise KeyError(f'{name} was never logged')
    return values[-1]


def cost(folder: Path, memory: float) -> dict[str, float]:
    """Median images/s of a run, and peak memory in MiB: of the GPU if there is one, otherwise of the process."""
    lines = scalars(folder)
    speed = statistics.median(line['images_per_s'] for line in lines if 'images_per_s' in line)
    peak = max((line['memory'] for line in lines if 'memory' in line), default=memory)
    return {'images_per_s': round(speed, 1), **({'memory_mib': round(peak, 1)} if peak else {})}


def _write_json(path: Path, content: Mapping) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str) + '\n')
