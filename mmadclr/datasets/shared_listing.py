"""One listing for several processes: one of them finds the images and writes arrays, the others map these into memory.

What is shared is a source of :mod:`mmadclr.datasets.sources`, pickled, with its arrays as ``.npy`` files beside. Their
folder has a name that is drawn anew for every listing and told to the other processes with digests of the arrays, so that
files of another folder, time or run are never taken for them.
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
HASHED = 1 << 24  # bytes at a time


class MappedArray(np.ndarray):
    """An array in a file that is mapped read-only, and again where it is unpickled; a view or copy of it is a plain one."""

    path: str | None = None  # a view does not inherit it

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return np.asarray(self).__reduce_ex__(protocol) if self.path is None else (map_array, (self.path,))


def map_array(path: str) -> MappedArray:
    """An array that ``Exchange`` wrote.

    Raises:
        FileNotFoundError: The file is gone: the run that wrote it has ended, or somebody removed it.
        ValueError: It holds no array.
    """
    try:
        array = np.load(path, mmap_mode='r').view(MappedArray)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{printable(path)} is gone: leave the listing of a run alone until it has ended') from error
    array.path = path
    return array


def digest(array: np.ndarray) -> str:
    """SHA-256 of type, shape and contents."""
    found = hashlib.sha256(f'{array.dtype.str} {array.shape}'.encode())
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for first in range(0, len(data), HASHED):
        found.update(data[first : first + HASHED].data)
    return found.hexdigest()


@dataclass(frozen=True)
class Shared:
    """A source that has been written.

    Attributes:
        folder: Of its arrays, ``0.npy`` and so on.
        digests: Of each array.
        content: The pickled source without arrays.
        view: What its process saw that others should see too; see ``view_of``.
    """

    folder: str
    digests: tuple[str, ...]
    content: bytes
    view: Any


@dataclass
class Exchange:
    """Sources by what describes them, while data sets are built.

    Attributes:
        folders: Where to write, the first that works; where there is none, nothing is written.
        known: What other processes have written.
        written: What this process has.
        sources: What came of it.
        mapped: Keys of those that this process took from another.
    """

    folders: tuple[str, ...] = ()
    known: dict[tuple, Shared] = field(default_factory=dict)
    written: dict[tuple, Shared] = field(default_factory=dict)
    sources: dict[tuple, Any] = field(default_factory=dict)
    mapped: set[tuple] = field(default_factory=set)

    def find(self, key: tuple, make: Callable[[], Any], view_of: Callable[[Any], Any]) -> Any:
        """The source of ``key``: mapped if it is known and this process sees the same, else made here.

        Args:
            key: What describes it: absolute paths and settings.
            make: Lists or indexes.
            view_of: What a process sees of the source at little cost, to be compared.

        Raises:
            ValueError: The files of another process hold something else than it wrote.
        """
        source = self._map(key, view_of) or make()
        if self.folders and key not in self.mapped and key not in self.written:
            shared = self._save(source, view_of(source))
            if shared is not None:
                self.written[key] = shared
                source = load(shared)  # so that a node holds it once, and loader workers do not get copies
        self.sources[key] = source
        return source

    def _map(self, key: tuple, view_of: Callable[[Any], Any]) -> Any:
        """What another process has written for ``key``; None if it has not, or this one does not see the same."""
        shared = self.known.get(key)
        if shared is None or not is_visible(shared):
            return None
        source = load(shared)
        if view_of(source) != shared.view:
            return None
        self.mapped.add(key)
        return source

    def _save(self, source: Any, view: Any) -> Shared | None:
        """In the first folder that takes it; None, after a warning for each, if none does."""
        for folder in self.folders:
            try:
                return save(source, folder, view)
            except OSError as error:
                print_log(
                    f'{printable(folder)} does not take the list of images ({error.strerror}): make room there, or other '
                    'processes will look for the images themselves',
                    'current',
                    logging.WARNING,
                )
        return None


_active: list[Exchange] = []


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[Exchange]:
    """Sources that are built within are taken from ``exchange``, or written for it."""
    _active.append(exchange)
    try:
        yield exchange
    finally:
        _active.remove(exchange)


def in_turn() -> bool:
    """Whether this process builds data sets while others wait for it, or after the main process has: it cannot meet them."""
    return bool(_active)


def shared_source(key: tuple, make: Callable[[], Any], view_of: Callable[[Any], Any]) -> Any:
    """A source by way of the exchange that is going on; where there is none, ``make()``."""
    return _active[-1].find(key, make, view_of) if _active else make()


def save(source: Any, folder: str, view: Any) -> Shared:
    """Writes a source below ``folder``, which is made.

    Raises:
        OSError: It cannot be written; nothing is left of it.
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
                os.fsync(file.fileno())  # where a disk is full, this says so, and other nodes see the file
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
        ValueError: A file holds another array than was written.
        FileNotFoundError: See ``map_array``.
    """
    paths = _paths(shared)
    arrays = [map_array(path) for path in paths]
    for path, array, expected in zip(paths, arrays, shared.digests, strict=True):
        if digest(array) != expected:
            raise ValueError(
                f'{printable(path)} does not hold what the process that lists the images wrote: something else writes '
                'there, or the file system shows this node an older state'
            )
    return _Unpickler(shared.content, arrays).load()


def _paths(shared: Shared) -> list[str]:
    return [os.path.join(shared.folder, f'{number}.npy') for number in range(len(shared.digests))]


class _Pickler(pickle.Pickler):
    """Leaves out arrays of numbers, and collects them."""

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
    """Fills arrays in."""

    def __init__(self, content: bytes, arrays: list[MappedArray]) -> None:
        super().__init__(io.BytesIO(content))
        self.arrays = arrays

    def persistent_load(self, number: int) -> MappedArray:
        return self.arrays[number]


_locks: dict[str, Any] = {}  # folders of this process, each with its lock file


def _own(place: str) -> None:
    """Keeps a folder from being taken for an abandoned one while this process lives, and removes it in the end."""
    lock = open(os.path.join(place, 'lock'), 'wb')  # noqa: SIM115 (open as long as the process)
    with suppress(OSError):  # no locks on this file system: then no one else gets one there either
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _locks[place] = lock
    atexit.register(_remove, place, os.getpid())


def _remove(place: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked process
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            os.rmdir(os.path.dirname(place))


def _remove_abandoned(folder: str) -> None:
    """What processes that were killed have left in a folder."""
    for name in os.listdir(folder):
        place = os.path.join(os.path.abspath(folder), name)
        if not name.startswith(PREFIX) or place in _locks:
            continue
        with suppress(OSError), open(os.path.join(place, 'lock'), 'r+b') as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
