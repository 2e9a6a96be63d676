"""Passes of a backbone over images: batches are shared out to the processes, results are kept in files or in memory.

The batches do not depend on the number of processes, so neither do the features.

Shape legend: N items, B items of a batch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.distributed.agreement import OtherProcessError, together
from mmadclr.files import atomic_path

LOG_SECONDS = 30.0
DONE = 'done.npy'
T = TypeVar('T')


class Loading(NamedTuple):
    """Images of a batch, and loader workers of each process."""

    batch_size: int = 16
    workers: int = 0


class Arrays(NamedTuple):
    """Shape of an item and type, of one output of a pass."""

    shape: tuple[int, ...]
    dtype: str


Compute = Callable[[list[Any]], Mapping[str, np.ndarray]]


def digest_of(value: Any) -> str:
    """Hash of a value that JSON can represent."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()


def units_of(count: int, size: int) -> list[list[int]]:
    """Consecutive batches of items."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def my_part(units: Sequence[T]) -> list[T]:
    """The contiguous part of a sequence that this process works on."""
    bounds = np.linspace(0, len(units), dist.get_world_size() + 1).round().astype(int)
    return list(units[bounds[dist.get_rank()] : bounds[dist.get_rank() + 1]])


def shown(iterable: Iterable[T], total: int, what: str, weigh: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """Passes items through and shows progress with the time left: a bar on a terminal, or else a line every 30 s.

    Only the main process shows it, for its own part.
    """
    bar = tqdm(total=total, desc=what, unit='image', leave=False, disable=None if dist.is_main_process() else True)
    done, started, logged = 0, time.monotonic(), time.monotonic()
    with bar:
        for item in iterable:
            yield item
            done += weigh(item)
            bar.update(weigh(item))
            now = time.monotonic()
            if bar.disable and dist.is_main_process() and now - logged >= LOG_SECONDS:
                logged = now
                left = (total - done) * (now - started) / done / 60
                print_log(f'{what}: {done} of {total}, {left:.0f} min left', 'current')


class _Items(Dataset):
    """``read(index)`` by index; an error is returned, since one raised in a worker would include its traceback."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self.read = read

    def __getitem__(self, index: int) -> Any:
        try:
            return self.read(index)
        except (ValueError, FileNotFoundError) as error:
            return error


def batches(read: Callable[[int], Any], units: Sequence[list[int]], workers: int) -> Iterator[list[Any]]:
    """Lists of ``read(index)`` for every batch of indices, read by loader workers.

    Raises:
        ValueError, FileNotFoundError: Of ``read``.
    """
    settings = dict(batch_sampler=units, num_workers=workers, collate_fn=list, generator=torch.Generator())
    loader = outlive_signals(DataLoader(_Items(read), **settings))  # type: ignore[arg-type]  # has no __len__
    for found in loader:
        for each in found:
            if isinstance(each, Exception):
                raise each
        yield found


@contextmanager
def own_random(*numbers: int) -> Iterator[None]:
    """Context with a seed of its own for torch's generator, from numbers such as seed, epoch and index of an image."""
    text = '-'.join(map(str, numbers)).encode()
    seed = int.from_bytes(hashlib.sha256(text).digest()[:7], 'big')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def compute_rows(
    read: Callable[[int], Any],
    compute: Compute,
    count: int,
    layout: Mapping[str, Arrays],
    loading: Loading,
    what: str,
    folder: Path | None = None,
    identity: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Outputs (N, ...) of all items by name, on every process; in memory, or in memory-mapped files below ``folder``.

    With a folder, finished batches are kept if the pass is interrupted, and are reused by the next one of the same
    ``identity``. All processes need to see the folder.

    Args:
        read: Item by index, in a loader worker.
        compute: Outputs (B, ...) of a list of items.
        count: N.
        layout: Of the outputs.
        loading: See there.
        what: Name in the progress line.
        folder, identity: Where to keep the outputs, and what they depend on.

    Raises:
        ValueError, FileNotFoundError: An image cannot be read, on this or another process, or there is too little space.
    """
    units = units_of(count, loading.batch_size)
    if folder is None:
        arrays = {name: np.zeros((count, *each.shape), each.dtype) for name, each in layout.items()}
        together(lambda: _fill(arrays, read, compute, my_part(units), loading.workers, what))
        together(lambda: _even_out(read, compute, units))
        return {name: summed(array) for name, array in arrays.items()}
    together(lambda: _prepare(folder, layout, count, len(units), identity or {}) if dist.is_main_process() else None)
    arrays = {name: np.load(folder / f'{name}.npy', mmap_mode='r+') for name in layout}
    done = np.load(folder / DONE, mmap_mode='r+')
    mine = [number for number in my_part(range(len(units))) if not done[number]]
    together(lambda: _fill(arrays, read, compute, [units[i] for i in mine], loading.workers, what, done, mine))
    # Copy on write: torch wants writable arrays, and the files stay as they are.
    return {name: np.load(folder / f'{name}.npy', mmap_mode='c') for name in layout}


def _even_out(read: Callable[[int], Any], compute: Compute, units: Sequence[list[int]]) -> None:
    """Repeats the first batch where there were fewer than elsewhere: sharded models must be called equally often."""
    for _ in range(-(-len(units) // dist.get_world_size()) - len(my_part(units))):
        compute([read(index) for index in units[0]])


def summed(array: np.ndarray) -> np.ndarray:
    """Sum over processes of arrays that are zero except for the rows of each."""
    if dist.get_world_size() == 1:
        return array
    total = torch.from_numpy(array)
    dist.all_reduce(total)
    return total.numpy()


def _fill(
    arrays: Mapping[str, np.ndarray],
    read: Callable[[int], Any],
    compute: Compute,
    units: Sequence[list[int]],
    workers: int,
    what: str,
    done: np.ndarray | None = None,
    numbers: Sequence[int] = (),
) -> None:
    total = sum(map(len, units))
    found = shown(zip(units, batches(read, units, workers), strict=True), total, what, lambda pair: len(pair[0]))
    for place, (unit, items) in enumerate(found):
        for name, rows in compute(items).items():
            arrays[name][unit[0] : unit[-1] + 1] = rows
        if done is not None:
            for array in arrays.values():
                array.flush()  # type: ignore[attr-defined]  # memory-mapped
            done[numbers[place]] = 1


def _prepare(folder: Path, layout: Mapping[str, Arrays], count: int, units: int, identity: Mapping[str, Any]) -> None:
    """Makes the files of a pass, unless there are those of an interrupted one with the same identity and layout."""
    described = {'identity': identity, 'count': count, 'units': units, 'layout': {k: list(v) for k, v in layout.items()}}
    described = json.loads(json.dumps(described))
    note = folder / 'identity.json'
    if note.exists() and _is_usable(json.loads(note.read_text()), described, folder / DONE):
        return
    if folder.exists():
        shutil.rmtree(folder)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        check_space(temporary, sum(bytes_of(each) for each in layout.values()) * count)
        for name, each in layout.items():
            np.lib.format.open_memmap(temporary / f'{name}.npy', 'w+', each.dtype, (count, *each.shape)).flush()
        np.save(temporary / DONE, np.zeros(units, np.uint8))
        (temporary / 'identity.json').write_text(json.dumps(described))


def _is_usable(stored: dict[str, Any], wanted: dict[str, Any], done: Path) -> bool:
    """Whether a pass continues stored outputs: they are the same, or finished and more than it needs."""
    outputs = stored['layout'], wanted['layout']
    if {**stored, 'layout': None} != {**wanted, 'layout': None}:
        return False
    return outputs[0] == outputs[1] or (outputs[0].items() >= outputs[1].items() and bool(np.load(done).all()))


def bytes_of(each: Arrays) -> int:
    """Size of an item."""
    return int(np.prod(each.shape)) * np.dtype(each.dtype).itemsize


def check_space(folder: Path, needed: int) -> None:
    """Checks the free space of a disk.

    Raises:
        ValueError: There is too little.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f'{folder.parent}: features need {needed / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB are free; choose '
            'another --out, a smaller --size or --dtype float16'
        )


def shared_out(count: int, read: Callable[[int], Any], work: Callable[[Any], T], what: str, workers: int = 0) -> list[T]:
    """``work(read(index))`` of every index, in order, on every process; each computes a part. Results must be small.

    Args:
        count: Number of items.
        read: In a loader worker.
        work: On this process.
        what: Name in the progress line.
        workers: Of each process.

    Raises:
        ValueError, FileNotFoundError: Of ``read`` or ``work``, on this or another process.
    """
    mine = my_part([[index] for index in range(count)])
    found = together(lambda: [work(items[0]) for items in shown(batches(read, mine, workers), len(mine), what)])
    return [result for part in dist.all_gather_object(found) for result in part]


def checked_rows(features: Tensor, dtype: str) -> np.ndarray:
    """Features as an array.

    Raises:
        ValueError: They are not finite, or overflow ``dtype``.
    """
    from mmadclr.evaluation.extraction import to_dtype

    return to_dtype(features.float(), dtype)


@cache
def _patient_group() -> distributed.ProcessGroup | None:
    """All processes, without the usual time limit; gloo, so that the GPU does not spin."""
    return distributed.new_group(backend='gloo', timeout=timedelta(days=30)) if dist.is_distributed() else None


def alone(work: Callable[[], T]) -> T | None:
    """The result of the main process, for which the others wait without time limit; None on these.

    Raises:
        OtherProcessError: It failed; the main process raises the error itself.
    """
    group = _patient_group()
    if group is None:
        return work()
    result: T | None = None
    error: Exception | None = None
    failure: list[str | None] = [None]
    if dist.is_main_process():
        try:
            result = work()
        except Exception as caught:
            error, failure = caught, [f'{type(caught).__name__}: {caught}']
    distributed.broadcast_object_list(failure, 0, group)
    if error is not None:
        raise error
    if failure[0] is not None:
        raise OtherProcessError(f'process 0 failed: {failure[0]}')
    return result
