"""Data loaders in training: clear errors for dead workers, and prefetching to the device."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.runner import find_latest_checkpoint
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils.signal_handling import _error_if_any_worker_fails

SHARED_MEMORY = Path('/dev/shm')
CPU_MAX = Path('/sys/fs/cgroup/cpu.max')
MOST_WORKERS = 16  # each reads 500 images/s or more
# torch.utils.data.dataloader and torch.utils.data._utils.signal_handling
DEATH = re.compile(
    r'DataLoader worker \(pid.*?\) (exited unexpectedly|is killed by signal: .*?\.)|Pin memory thread exited'
    r'|unable to (allocate shared memory|write to file|mmap)[^\n]*'
)
NO_SHARED_MEMORY = (
    "out of shared memory: lower the data loader's num_workers, prefetch_factor or batch_size, or give the container more "
    '(--shm-size)'
)
FROM_OUTSIDE = 'it was killed from outside (kill, a batch system) without the rest of the run'
CAUSES = {
    'Killed': 'most likely the machine ran out of memory: lower num_workers, prefetch_factor or batch_size of the loader',
    'Bus error': NO_SHARED_MEMORY,
    'unable to': NO_SHARED_MEMORY,
    **dict.fromkeys(('Terminated', 'Interrupt', 'Hangup', 'User defined signal'), FROM_OUTSIDE),
}
HANDING_OVER_S = 2.0  # until the system reports the exit of a worker whose connection is lost
UNKNOWN_CAUSE = (
    'most likely the machine ran out of memory or of shared memory (the --shm-size of a container): lower num_workers, '
    'prefetch_factor or batch_size of the loader; num_workers=0 shows errors of the data set itself'
)


class WorkerDiedError(RuntimeError):
    """A data loader worker died without raising an exception."""


@contextmanager
def explained_worker_deaths(
    iteration: Callable[[], int], work_dir: str | Path, stopped: Callable[[], str | None] = lambda: None
) -> Iterator[None]:
    """Explains the death of a loader worker and how to resume.

    Torch raises the error from a signal handler, so anywhere in the main process, not only where batches are fetched; other
    code may have caught it and raised something else. A worker that dies while sending a batch appears as a lost connection.

    Args:
        iteration: Returns the current iteration of the run.
        work_dir: Folder of the run's checkpoints.
        stopped: Returns the signal that requested a stop, if any: memory is then not the cause.

    Raises:
        WorkerDiedError: Replaces torch's error; all other errors are passed on.
    """
    try:
        yield
    except Exception as error:
        with _deaths_not_signaled():
            death = _find_death(error) or _death_in_handing_over(error)
        if death is None:
            raise
        told = stopped() and f'the run was asked to stop ({stopped()}), and its worker was killed first'
        cause = told or _cause(death) or UNKNOWN_CAUSE
        raise WorkerDiedError(f'{death} at iteration {iteration()}: {cause}. {_way_on(work_dir)}') from error


@contextmanager
def _deaths_not_signaled() -> Iterator[None]:
    """Keeps torch from raising what it has to say of a worker in the middle of the search for it."""
    if threading.current_thread() is not threading.main_thread():  # where signals do not arrive
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _find_death(error: BaseException | None) -> str | None:
    """Searches the messages of the error and its causes, preferring one that states the cause of death.

    If the signal arrives while the main process waits for a batch, torch hides it behind "exited unexpectedly".
    """
    deaths = []
    while error is not None:
        deaths += [found[0] for found in [DEATH.search(str(error))] if found]
        error = error.__cause__ or error.__context__
    return next((death for death in deaths if _cause(death)), deaths[0] if deaths else None)


def _death_in_handing_over(error: BaseException) -> str | None:
    """torch's message about a dead worker, if the error is a lost connection between processes."""
    if not isinstance(error, (ConnectionError, EOFError, FileNotFoundError)):
        return None
    if not any('multiprocessing' in Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)):
        return None
    end = time.monotonic() + HANDING_OVER_S
    while time.monotonic() < end:
        try:
            _error_if_any_worker_fails()
        except RuntimeError as told:
            return _find_death(told)
        time.sleep(0.05)
    return None


def _cause(death: str) -> str | None:
    return next((text for name, text in CAUSES.items() if name in death), None)


def _way_on(work_dir: str | Path) -> str:
    checkpoint = find_latest_checkpoint(str(work_dir))
    if checkpoint is None:
        return f'There is no checkpoint in {work_dir} yet: start the run again'
    return f'The last checkpoint is {checkpoint}: resume from it with --resume'


def check_shared_memory(loader: DataLoader) -> None:
    """Checks, before workers start, that their prefetched batches fit into shared memory.

    Each worker holds ``prefetch_factor`` batches plus the one in use; see :mod:`mmadclr.datasets.shared_arrays`. Applies
    only if the data set's transform reports the bytes of a batch (``batch_bytes``), the batch sampler has a ``batch_size``,
    and workers use ``/dev/shm``.

    Raises:
        ValueError: They do not fit; states required and available memory and how to reduce it.
    """
    batch_bytes = getattr(getattr(loader.dataset, 'transform', None), 'batch_bytes', None)
    batch_size = getattr(loader.batch_sampler, 'batch_size', None)
    if loader.prefetch_factor is None or batch_bytes is None or batch_size is None or not SHARED_MEMORY.is_dir():
        return  # without workers there is no prefetch_factor
    size, processes = batch_bytes(batch_size), local_processes()
    batches = loader.prefetch_factor + 1
    need = size * loader.num_workers * batches * processes
    free = shutil.disk_usage(SHARED_MEMORY).free
    if need > free:
        raise ValueError(
            f'{loader.num_workers} workers x {batches} batches of {_mib(size)} x {processes} processes need '
            f'{_mib(need)} of shared memory, but {SHARED_MEMORY} has {_mib(free)} free: lower train_dataloader.num_workers, '
            'batch_size or prefetch_factor, or give the container more (--shm-size)'
        )


def local_processes() -> int:
    """Training processes on this machine: from torchrun, Slurm or MPI, otherwise the number of GPUs."""
    names = ('LOCAL_WORLD_SIZE', 'SLURM_NTASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE')
    known = next((os.environ[name] for name in names if os.environ.get(name, '').isdigit()), None)
    return int(known) if known else min(get_world_size(), max(1, torch.cuda.device_count()))


def default_workers() -> int:
    """Default number of loader workers of this process: one per core, at most 16.

    Counts the cores that this process may use (``os.sched_getaffinity``), limited by its cgroup's quota, and
    shares them with the other processes of the machine (``local_processes``).
    """
    affinity = getattr(os, 'sched_getaffinity', None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(max(min(cores, _core_quota(CPU_MAX) or cores) // local_processes(), 1), MOST_WORKERS)


def _core_quota(path: Path) -> int | None:
    """Cores that a cgroup (version 2) grants a container; None without a limit."""
    quota, period = path.read_text().split() if path.is_file() else ('max', '')
    return None if quota == 'max' else max(int(quota) // int(period), 1)


def _mib(size: float) -> str:
    return f'{size / 2**20:,.1f} MiB'


class DevicePrefetcher:
    """A data loader that copies pixels to the GPU on a separate stream, while the previous step is still running.

    The host runs about one step ahead of the GPU, because no step synchronizes; a batch fetched after launching a step
    is copied concurrently with it. No batch is fetched early, so a slow loader does not delay a step that could start.
    All attributes are those of the loader. On a CPU, batches are passed through.

    Args:
        loader: With ``pin_memory=True``; otherwise copies block the host.
        device: Of the model.
    """

    def __init__(self, loader: DataLoader, device: torch.device | str) -> None:
        self.loader = loader
        self.device = torch.device(device)
        self.copies: torch.cuda.Stream | None = None  # one for all epochs: torch caches memory per stream

    def __getattr__(self, name: str) -> Any:
        if name == 'loader':  # not set yet, for example while being copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        if self.device.type != 'cuda':
            yield from self.loader
            return
        self.copies = self.copies or torch.cuda.Stream(self.device)
        for batch in self.loader:
            with torch.cuda.stream(self.copies):
                batch = pixels_on(self.device, batch)
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.copies)
            for tensor in pixels(batch).values():
                tensor.record_stream(current)  # its memory was allocated on the other stream
            yield batch


def pixels(batch: dict) -> dict[str, Tensor]:
    """The large tensors of a batch: ``images``, all ``*_views``, and ``packed_pixels``, from which the device cuts views."""
    large = ('images', 'packed_pixels')
    return {name: value for name, value in batch.items() if name in large or name.endswith('_views')}


def pixels_on(device: torch.device | str, batch: dict) -> dict:
    """The batch with its pixels on a device. Augmentation parameters, boxes and lists stay on the host."""
    return {**batch, **{name: value.to(device, non_blocking=True) for name, value in pixels(batch).items()}}
