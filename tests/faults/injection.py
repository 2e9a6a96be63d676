"""A training as a process of its own (or several under torchrun), how far it is, and ways to harm it.

    training = start(tmp_path, 'train_cfg.max_epochs=9', processes=2)
    training.wait_for_iteration(5)
    os.kill(training.loader_workers()[0], signal.SIGKILL)
    status = training.wait(timeout=60)
    assert 'ran out of memory' in training.output()

It is the demo's ADCLR on 16 + 10 generated images below ``tmp_path / 'shapes'``: 4 iterations an epoch, milliseconds each.
All waiting has a limit, after which all its processes are killed and the test fails with the end of the output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from places import REPO

from mmadclr.datasets.shapes import write_shapes

CONFIG = 'configs/demo/adclr_vittiny_shapes.py'
IMAGES, BATCH = 16, 4
SMALL = [
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=1000',
    'val_cfg=None',
    'val_dataloader=None',
    'val_evaluator=None',
    f'train_dataloader.dataset.num_train={IMAGES}',
    'train_dataloader.dataset.num_val=10',
    'train_dataloader.dataset.image_size=32',
    'train_dataloader.num_workers=0',
    'default_hooks.schedule.warmup_epochs=1',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=1',
]
VALIDATION = [
    'train_cfg.val_interval=1',
    'val_evaluator.dense=None',
    'val_dataloader.num_workers=2',
    'val_dataloader.dataset.num_train=16',
    'val_dataloader.dataset.num_val=10',
    'val_dataloader.dataset.image_size=32',
    'val_evaluator.knn.k=5',
    'default_hooks.watchdog.val_s=60',  # a validation that hangs for another reason leaves its stacks
]
WORKERS = ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']
SETTINGS = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONWARNINGS='ignore', PYTHON=sys.executable)


class Training:
    """A running or finished training; made by :func:`start`."""

    def __init__(self, work_dir: Path, process: subprocess.Popen, log: Path) -> None:
        self.work_dir, self.process, self.log = work_dir, process, log
        self.seen: set[int] = set()  # ranks, which may outlive a torchrun that is killed

    def output(self) -> str:
        """Standard output and error so far, of all processes."""
        return self.log.read_text(errors='replace')

    def records(self) -> list[dict]:
        """Lines of the scalar logs of all starts in this work dir, in order; half-written ones left out."""
        lines = []
        for path in sorted(self.work_dir.glob('*/vis_data/scalars.json')):
            lines += [json.loads(line) for line in path.read_text().splitlines() if line.endswith('}')]
        return lines

    def iteration(self) -> int:
        """The last iteration in the log, counted from 1; 0 before the first."""
        return max((line['step'] for line in self.records() if 'loss' in line), default=0)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 120) -> None:
        """Returns when ``condition()`` is true; fails when the time is up or the run has ended before."""
        end = time.monotonic() + timeout
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                state = 'is still running' if self.process.poll() is None else f'ended with {self.process.returncode}'
                self.kill()
                raise AssertionError(f'what was waited for did not happen; the run {state}:\n{self.output()[-4000:]}')
            time.sleep(0.05)

    def wait_for_iteration(self, number: int, timeout: float = 120) -> None:
        self.wait_until(lambda: self.iteration() >= number, timeout)

    def wait(self, timeout: float = 120) -> int:
        """Exit status; fails, with the group killed, if there is none in time."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f'still running after {timeout} s:\n{self.output()[-4000:]}') from None

    def kill(self) -> None:
        """Kills every process of the run, and returns when they are dead."""
        ranks = [*self.ranks(), *(pid for pid in self.seen if trainers(pid))]
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in ranks:  # torchrun puts each into a group of its own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        while any(is_alive(pid) for pid in ranks):
            time.sleep(0.01)

    def ranks(self) -> list[int]:
        """Process ids of the training processes: of one alone its own, under torchrun or ``timeout`` those it started."""
        found = trainers(self.process.pid)
        self.seen.update(found)
        return found

    def loader_workers(self, rank: int = 0) -> list[int]:
        """Process ids of the loader's workers of a rank: forked, so with the command line of their parent."""
        parent = self.ranks()[rank]
        return [pid for pid in children(parent) if command_line(pid) == command_line(parent)]


def start(
    tmp_path: Path,
    *options: str,
    processes: int = 1,
    config: str | Path = CONFIG,
    arguments: tuple[str, ...] = (),
    work_dir: str = 'work',
    torchrun: bool | None = None,
    prefix: tuple[str, ...] = (),
    validation: bool = False,
    program: bool = False,
) -> Training:
    """Starts ``tools/train.py``, with several processes by ``tools/dist_train.sh`` or by ``mmadclr train --gpus``.

    Args:
        tmp_path: Folder of data, work dir and output. Starting again with the same ``work_dir`` uses what is there.
        *options: For ``--cfg-options``, after those of ``SMALL``.
        processes: More than 1: under torchrun, over gloo on the CPU.
        config: Config file.
        arguments: Others of ``tools/train.py``, such as ``('--resume',)``.
        work_dir: Name of the work dir below ``tmp_path``.
        torchrun: Whether under torchrun; by default with several processes.
        prefix: What starts it all, such as ``('timeout', '60')``.
        validation: Validates after every epoch; else never.
        program: By ``mmadclr``, which becomes torchrun.
    """
    torchrun = processes > 1 if torchrun is None else torchrun
    launcher = ['tools/dist_train.sh', str(config), str(processes)]
    if program:
        launcher = [sys.executable, '-m', 'mmadclr', 'train', str(config), '--gpus', str(processes)]
    command = [*prefix, *(launcher if torchrun else [sys.executable, 'tools/train.py', str(config)])]
    command += tool_arguments(tmp_path, options, processes, arguments, work_dir, validation)
    log = tmp_path / f'{work_dir}_{time.monotonic_ns()}.log'
    with log.open('wb') as file:
        process = subprocess.Popen(
            command,
            cwd=REPO,
            env=os.environ | SETTINGS,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to be killed as a whole
        )
    return Training(tmp_path / work_dir, process, log)


def tool_arguments(
    tmp_path: Path,
    options: Sequence[str],
    processes: int = 1,
    arguments: Sequence[str] = (),
    work_dir: str = 'work',
    validation: bool = False,
) -> list[str]:
    """Arguments of ``tools/train.py`` behind the config, as of :func:`start`; the images are there then."""
    write_shapes(tmp_path / 'shapes', IMAGES, 10, 32)
    small = [option for option in SMALL if not validation or '=None' not in option]
    data = [
        *([f'val_dataloader.dataset.data_root={tmp_path / "shapes"}', *VALIDATION] if validation else []),
        f'train_dataloader.dataset.data_root={tmp_path / "shapes"}',
        f'train_dataloader.batch_size={BATCH // processes}',
    ]
    return ['--work-dir', str(tmp_path / work_dir), *arguments, '--cfg-options', *small, *data, *options]


def train_image(tmp_path: Path, number: int) -> Path:
    """Path of a training image, in the order of the data set."""
    return sorted((tmp_path / 'shapes/train').rglob('*.png'))[number]


def is_alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Child processes of all threads of a process (Linux)."""
    tasks = Path(f'/proc/{pid}/task').glob('*/children')
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def command_line(pid: int) -> list[str]:
    """Empty if there is no such process any more."""
    try:
        return Path(f'/proc/{pid}/cmdline').read_text().split('\0')
    except OSError:
        return []


def trainers(pid: int) -> list[int]:
    """Process ids of trainings at or below a process, which may be one of torchrun."""
    words = command_line(pid)
    if 'tools/train.py' in [part[-14:] for part in words[1:3]] or words[1:5] == ['-u', '-m', 'mmadclr', 'train']:
        return [pid]
    return [found for child in children(pid) for found in trainers(child)]
