"""Local cache of remote shards.

Caches full shards rather than ranges: training reads every image of a shard almost sequentially (``ShardSampler``), so a few
requests replace thousands that would each wait for the store (and be billed), and later epochs read from disk. Reading few
images from many shards is less efficient this way; copy or repack those.

Processes share the folder. A copy is written to a name ending in ``.partial``, locked by its writer, verified against
the size and version reported by the store, and then renamed; a later attempt resumes an interrupted one. Readers hold
a shared lock on their open copies, which prevents eviction. Locks are released when their process ends for any reason.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from mmengine.logging import print_log

from mmadclr.datasets.remote import StoreError, Tries, file_system, version, versions
from mmadclr.urls import shown

T = TypeVar('T')
CHUNK = 16 << 20  # bytes per request
FETCHING = 8  # concurrent downloads while indexing
FOLDER, LIMIT = 'MMADCLR_SHARD_CACHE', 'MMADCLR_SHARD_CACHE_SIZE'
UNITS = {'': 1, 'K': 10**3, 'M': 10**6, 'G': 10**9, 'T': 10**12}
PARTIAL = '.partial'
LOOK_S = 0.1  # between checks whether another process has downloaded a shard
SIZED = re.compile(r'[0-9a-f]{16}-(\d+)-')  # prefix of copies: digest and size


def cache_folder() -> Path:
    """Folder of indexes, in ``XDG_CACHE_HOME``."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return Path(home) / 'mmadclr'


def copies_folder() -> Path:
    """Folder of shard copies: ``MMADCLR_SHARD_CACHE``, or ``shards`` next to the indexes."""
    return Path(os.environ.get(FOLDER) or cache_folder() / 'shards')


def size_limit() -> float:
    """Maximum bytes of all copies, from ``MMADCLR_SHARD_CACHE_SIZE`` (``200G``); infinite if not set.

    Raises:
        ValueError: Its value is not a size.
    """
    text = os.environ.get(LIMIT, '').strip()
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMGT]?)B?', text, re.IGNORECASE)
    if text and match is None:
        raise ValueError(f'{LIMIT}={text!r} must be a size in bytes, or a number with K, M, G or T, such as 200G')
    return float(match[1]) * UNITS[match[2].upper()] if match else float('inf')


class RemoteShards:
    """Shards in a store, opened as local files.

    Args:
        urls: Of the shards.
        known: Their versions when indexed; by default queried from the store. Other versions are errors.

    Raises:
        FileNotFoundError, StoreError: See :func:`mmadclr.datasets.remote.versions`.
    """

    def __init__(self, urls: Sequence[str], known: Sequence[bytes] | None = None) -> None:
        self.urls, self.versions = urls, versions(urls) if known is None else known
        self._fetched: set[int] = set()
        self._told = False

    def open(self, number: int) -> int:
        """Descriptor of a file with the shard, open for reading; downloads it if there is no copy.

        Raises:
            StoreError: The store fails, the shard is missing or has changed, or there is no space for it.
        """
        url, known = self.urls[number], self.versions[number]
        place = copies_folder() / _name(url, known)
        while True:
            file = _opened(place, int(known.split()[0]))
            if file is not None:
                return file
            self._tell_if_again(number)
            _fetch(url, known, place)

    def each(self, work: Callable[[int, int], T]) -> Iterator[T]:
        """``work(index of the shard, open file)`` for all shards, in order; downloads several concurrently."""

        def one(number: int) -> T:
            file = self.open(number)
            try:
                return work(number, file)
            finally:
                os.close(file)

        pool = ThreadPoolExecutor(FETCHING)
        try:
            yield from pool.map(one, range(len(self.urls)))
        finally:
            pool.shutdown(cancel_futures=True)

    def _tell_if_again(self, number: int) -> None:
        if number in self._fetched and not self._told:
            self._told = True
            print_log(
                f'{shown(self.urls[number])} is downloaded again: the shards in use do not fit into {LIMIT}='
                f'{os.environ.get(LIMIT)}; raise it, or lower slot_lanes and step_lanes of ShardSampler',
                'current',
                logging.WARNING,
            )
        self._fetched.add(number)


def _name(url: str, known: bytes) -> str:
    digest = hashlib.sha256(shown(url).encode() + b'\0' + known).hexdigest()[:16]
    base = re.sub(r'[^\w.-]', '_', unquote(shown(url).rpartition('/')[2]))[-80:]
    return f'{digest}-{int(known.split()[0])}-{base}'


def _opened(place: Path, size: int) -> int | None:
    """The copy, open and locked against eviction; None if there is no complete one."""
    try:
        file = os.open(place, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file).st_size != size:  # modified externally
        os.close(file)
        place.unlink(missing_ok=True)
        return None
    with suppress(PermissionError):  # a folder of another user
        os.utime(file)  # mark as most recently used
    return file


def _fetch(url: str, known: bytes, place: Path) -> None:
    """Downloads the copy, or waits for the process that does."""
    with _explained(url, place.parent, int(known.split()[0])):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(place.name + PARTIAL)
        file = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _locked(file, partial):
                return  # its writer has renamed or removed it
            if place.exists():
                partial.unlink()
                return
            _make_room(place, int(known.split()[0]), os.fstat(file).st_size)
            _download(url, known, file, partial)
            os.fdatasync(file)
            os.replace(partial, place)
        finally:
            os.close(file)


def _locked(file: int, partial: Path) -> bool:
    """Waits until this process may write a copy; False if the file has been renamed meanwhile.

    Polls rather than blocks: once renamed, the file stays locked by its readers as long as they use it.
    """
    while _is_at(file, partial):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_S)
        else:
            return _is_at(file, partial)
    return False


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _explained(url: str, folder: Path, size: int) -> Iterator[None]:
    """Explains disk errors; errors of the store are passed on."""
    try:
        yield
    except (StoreError, FileNotFoundError):
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = f'free disk space, set {FOLDER} to a folder on another disk' if full else f'set {FOLDER} to another folder'
        limit = f', or set {LIMIT} so that older copies are evicted' if full else ''
        raise StoreError(
            f'cannot store a copy of {shown(url)} ({size:,} bytes) in {folder}: {error.strerror or error}; {remedy}{limit}'
        ) from error


def _make_room(place: Path, size: int, have: int) -> None:
    """Evicts the least recently used copies until the limit is met, except those open or being written.

    One process at a time: sizes in file names include what other processes are about to write.
    """
    limit, folder = size_limit(), os.open(place.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if limit < float('inf'):
            _keep_limit(place, size, limit)
    finally:
        os.close(folder)
    free = shutil.disk_usage(place.parent).free
    if free < size - have:
        raise OSError(errno.ENOSPC, f'No space left on device ({free:,} bytes are free)')


def _keep_limit(place: Path, size: int, limit: float) -> None:
    used, copies = size, []
    for entry in os.scandir(place.parent):
        match = SIZED.match(entry.name)
        if match is not None and entry.name != place.name + PARTIAL:
            used += int(match[1])
            copies.append((entry.stat().st_mtime_ns, entry.path, int(match[1])))
    for _, path, taken in sorted(copies):
        if used <= limit:
            return
        if _removed(path):
            used -= taken
    if used > limit:
        raise StoreError(
            f'{place.parent}: copies in use ({used - size:,} bytes) and the next shard ({size:,}) exceed {LIMIT}='
            f'{os.environ[LIMIT]}; raise it, or read fewer shards at once (slot_lanes, step_lanes of ShardSampler; workers)'
        )


def _removed(path: str) -> bool:
    """Removes a copy unless it is open; returns whether it was removed."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _download(url: str, known: bytes, file: int, partial: Path) -> None:
    """Downloads the missing part of a shard, and verifies that all parts have the same version."""
    _check_version(url, known, partial)
    size, have = int(known.split()[0]), os.fstat(file).st_size
    have = have if have <= size else 0
    fs, path = file_system(url)
    tries = Tries(url)
    while have < size:
        end = min(have + CHUNK, size)
        data = tries.run(functools.partial(_answer, fs, path, have, end, size))
        have = 0 if len(data) == size else have  # the server does not support ranges, and sends the full file
        try:
            _write(file, data, have)
        except OSError:
            partial.unlink(missing_ok=True)  # frees disk space
            raise
        have += len(data)
    os.ftruncate(file, size)
    _check_version(url, known, partial)


def _answer(fs, path: str, start: int, end: int, size: int) -> bytes:
    data = fs.cat_file(path, start=start, end=end)
    if not data or (len(data) > end - start and len(data) != size):
        raise OSError(f'received {len(data)} bytes instead of {end - start}')
    return data


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _check_version(url: str, known: bytes, partial: Path) -> None:
    try:
        now = version(url)
    except FileNotFoundError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f'{shown(url)} no longer exists, but did when the shards were listed') from error
    if now != known:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f'{shown(url)} has changed since the shards were listed ({known.decode()}, now {now.decode()}): restart '
            'to index it again; shards must not change during a run'
        )
