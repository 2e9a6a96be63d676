"""One listing for several processes: one process lists the images and writes arrays, the others memory-map these.

A source of :mod:`mmadclr.datasets.sources` is shared in pickled form, with its arrays as ``.npy`` files. Their
folder has a random name for every listing, which is sent to the other processes with digests of the arrays, so that
files of another folder, time or run are never used by mistake.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import io
import logging
import os
import pickle
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np
from mmengine.logging import print_log

from mmadclr.names import printable

PREFIX = 'listing-'
HASHED = 1 << 24  # bytes hashed at a time


class MappedArray(np.ndarray):
    """A read-only memory-mapped array that is mapped again when unpickled; its views and copies are plain arrays."""

    path: str | None = None  # not inherited by views

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return np.asarray(self).__reduce_ex__(protocol) if self.path is None else (map_array, (self.path,))


def map_array(path: str) -> MappedArray:
    """Maps an array written by ``Exchange``.

    Raises:
        FileNotFoundError: The file was removed, or the run that wrote it has ended.
        ValueError: It does not contain an array.
    """
    try:
        array = np.load(path, mmap_mode='r').view(MappedArray)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{printable(path)} is missing: do not remove the listing of a run before it ends'
        ) from error
    array.path = path
    return array


def digest(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and contents."""
    found = hashlib.sha256(f'{array.dtype.str} {array.shape}'.encode())
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for first in range(0, len(data), HASHED):
        found.update(data[first : first + HASHED].data)
    return found.hexdigest()


@dataclass(frozen=True)
class Shared:
    """A written source.

    Attributes:
        folder: Of its arrays, ``0.npy`` and so on.
        digests: Of each array.
        content: The pickled source without arrays.
        view: What its process saw that others should also see; see ``view_of``.
    """

    folder: str
    digests: tuple[str, ...]
    content: bytes
    view: Any


@dataclass
class Exchange:
    """Sources by key, while data sets are built.

    Attributes:
        folders: Candidate output folders in order of preference; if empty, nothing is written.
        known: Written by other processes.
        written: Written by this process.
        sources: The resulting sources.
        mapped: Keys of sources mapped from another process.
    """

    folders: tuple[str, ...] = ()
    known: dict[tuple, Shared] = field(default_factory=dict)
    written: dict[tuple, Shared] = field(default_factory=dict)
    sources: dict[tuple, Any] = field(default_factory=dict)
    mapped: set[tuple] = field(default_factory=set)

    def find(self, key: tuple, make: Callable[[], Any], view_of: Callable[[Any], Any]) -> Any:
        """The source of ``key``: mapped if it is known and this process sees the same files, otherwise created here.

        Args:
            key: Identifies it: absolute paths and settings.
            make: Lists or indexes.
            view_of: Cheap summary of what a process sees of the source, for comparison.

        Raises:
            ValueError: The files of another process differ from what it wrote.
        """
        source = self._map(key, view_of) or make()
        if self.folders and key not in self.mapped and key not in self.written:
            shared = self._save(source, view_of(source))
            if shared is not None:
                self.written[key] = shared
                source = load(shared)  # shares memory across the node, and avoids copies in loader workers
        self.sources[key] = source
        return source

    def _map(self, key: tuple, view_of: Callable[[Any], Any]) -> Any:
        """The source that another process wrote for ``key``; None if there is none, or this process sees other files."""
        shared = self.known.get(key)
        if shared is None or not is_visible(shared):
            return None
        source = load(shared)
        if view_of(source) != shared.view:
            return None
        self.mapped.add(key)
        return source

    def _save(self, source: Any, view: Any) -> Shared | None:
        """Writes to the first usable folder; None, after a warning for each, if there is none."""
        for folder in self.folders:
            try:
                return save(source, folder, view)
            except OSError as error:
                print_log(
                    f'cannot write the list of images to {printable(folder)} ({error.strerror}): free space there, or '
                    'other processes will list the images themselves',
                    'current',
                    logging.WARNING,
                )
        return None


_active: list[Exchange] = []


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[Exchange]:
    """Context in which built sources are read from ``exchange``, or written to it."""
    _active.append(exchange)
    try:
        yield exchange
    finally:
        _active.remove(exchange)


def in_turn() -> bool:
    """Whether this process builds data sets in turn with the main process, and so must not use collective operations."""
    return bool(_active)


def shared_source(key: tuple, make: Callable[[], Any], view_of: Callable[[Any], Any]) -> Any:
    """A source from the active exchange; without one, ``make()``."""
    return _active[-1].find(key, make, view_of) if _active else make()


def save(source: Any, folder: str, view: Any) -> Shared:
    """Writes a source to ``folder``, which is created.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    os.makedirs(folder, exist_ok=True)
    place = os.path.join(os.path.abspath(folder), PREFIX + secrets.token_hex(16))
    content = io.BytesIO()
    pickler = _Pickler(content)
    pickler.dump(source)
    try:
        _remove_abandoned(folder)
        os.mkdir(place)
        _own(place)
        for number, array in enumerate(pickler.arrays):
            with open(os.path.join(place, f'{number}.npy'), 'xb') as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())  # detects a full disk, and makes the file visible to other nodes
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return Shared(place, tuple(map(digest, pickler.arrays)), content.getvalue(), view)


def is_visible(shared: Shared) -> bool:
    """Whether this process sees the files."""
    return os.path.isdir(shared.folder) and all(os.path.exists(path) for path in _paths(shared))


def load(shared: Shared) -> Any:
    """The source, with its arrays mapped.

    Raises:
        ValueError: A file differs from the written array.
        FileNotFoundError: See ``map_array``.
    """
    paths = _paths(shared)
    arrays = [map_array(path) for path in paths]
    for path, array, expected in zip(paths, arrays, shared.digests, strict=True):
        if digest(array) != expected:
            raise ValueError(
                f'{printable(path)} differs from what the process that lists the images wrote: another program writes '
                'there, or the file system shows this node an outdated state'
            )
    return _Unpickler(shared.content, arrays).load()


def _paths(shared: Shared) -> list[str]:
    return [os.path.join(shared.folder, f'{number}.npy') for number in range(len(shared.digests))]


class _Pickler(pickle.Pickler):
    """Extracts numeric arrays and collects them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.arrays: list[np.ndarray] = []

    def persistent_id(self, part: Any) -> int | None:
        if not isinstance(part, np.ndarray) or part.dtype.hasobject:
            return None
        known = (number for number, array in enumerate(self.arrays) if array is part)
        number = next(known, len(self.arrays))
        if number == len(self.arrays):
            self.arrays.append(part)
        return number


class _Unpickler(pickle.Unpickler):
    """Inserts the arrays."""

    def __init__(self, content: bytes, arrays: list[MappedArray]) -> None:
        super().__init__(io.BytesIO(content))
        self.arrays = arrays

    def persistent_load(self, number: int) -> MappedArray:
        return self.arrays[number]


_locks: dict[str, Any] = {}  # folders of this process and their lock files


def _own(place: str) -> None:
    """Marks a folder as in use while this process lives, and removes it at exit."""
    lock = open(os.path.join(place, 'lock'), 'wb')  # noqa: SIM115 (open until the process ends)
    with suppress(OSError):  # without lock support, no other process can acquire one either
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _locks[place] = lock
    atexit.register(_remove, place, os.getpid())


def _remove(place: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked process
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            os.rmdir(os.path.dirname(place))


def _remove_abandoned(folder: str) -> None:
    """Removes what killed processes left in a folder."""
    for name in os.listdir(folder):
        place = os.path.join(os.path.abspath(folder), name)
        if not name.startswith(PREFIX) or place in _locks:
            continue
        with suppress(OSError), open(os.path.join(place, 'lock'), 'r+b') as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
