"""A folder of local copies of remote shards.

Whole shards, not ranges: training reads every image of a shard, nearly in order (``ShardSampler``), so a few requests stand
for thousands that would each wait for the store (and be paid for), and later epochs read from the disk. A few images of many
shards cost more that way; copy or pack those.

Processes share the folder. A copy is written under a name that ends in ``.partial``, locked by its writer, checked against
the size and version that the store states, and then renamed; a later try goes on where an earlier one stopped. Readers hold
a shared lock on the copies they have open, so that those are not removed to make room. Locks end with their process, however
it ends.
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
CHUNK = 16 << 20  # bytes of a request
FETCHING = 8  # shards at a time, when all are indexed
FOLDER, LIMIT = 'MMADCLR_SHARD_CACHE', 'MMADCLR_SHARD_CACHE_SIZE'
UNITS = {'': 1, 'K': 10**3, 'M': 10**6, 'G': 10**9, 'T': 10**12}
PARTIAL = '.partial'
LOOK_S = 0.1  # between two looks whether another process has fetched a shard
SIZED = re.compile(r'[0-9a-f]{16}-(\d+)-')  # how names of copies begin: digest and size


def cache_folder() -> Path:
    """Where indexes are kept: below ``XDG_CACHE_HOME``."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return Path(home) / 'mmadclr'


def copies_folder() -> Path:
    """Where copies of shards are kept: ``MMADCLR_SHARD_CACHE``, or ``shards`` beside the indexes."""
    return Path(os.environ.get(FOLDER) or cache_folder() / 'shards')


def size_limit() -> float:
    """Bytes that the copies may take, by ``MMADCLR_SHARD_CACHE_SIZE`` (``200G``); infinite where it is not set.

    Raises:
        ValueError: It is no size.
    """
    text = os.environ.get(LIMIT, '').strip()
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMGT]?)B?', text, re.IGNORECASE)
    if text and match is None:
        raise ValueError(f'{LIMIT}={text!r} is no size: give bytes, or a number with K, M, G or T, such as 200G')
    return float(match[1]) * UNITS[match[2].upper()] if match else float('inf')


class RemoteShards:
    """Shards of a store, opened as local files.

    Args:
        urls: Of the shards.
        known: Their versions, if an index was made of those; else the store is asked. Other versions are errors.

    Raises:
        FileNotFoundError, StoreError: See :func:`mmadclr.datasets.remote.versions`.
    """

    def __init__(self, urls: Sequence[str], known: Sequence[bytes] | None = None) -> None:
        self.urls, self.versions = urls, versions(urls) if known is None else known
        self._fetched: set[int] = set()
        self._told = False

    def open(self, number: int) -> int:
        """Number of a file, open for reading, that holds the shard; fetched if there is no copy.

        Raises:
            StoreError: The store fails, the shard is gone or of another version, or there is no room for it.
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
        """``work(number of the shard, open file)`` for all shards, in their order; several are fetched at a time."""

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
                f'{shown(self.urls[number])} is fetched again: the shards read by turns do not fit into {LIMIT}='
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
    """The copy, open and locked against removal; None if there is none that is whole."""
    try:
        file = os.open(place, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file).st_size != size:  # someone has written to it
        os.close(file)
        place.unlink(missing_ok=True)
        return None
    with suppress(PermissionError):  # a folder filled by someone else
        os.utime(file)  # used last
    return file


def _fetch(url: str, known: bytes, place: Path) -> None:
    """Makes the copy, or waits for the process that does."""
    with _explained(url, place.parent, int(known.split()[0])):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(place.name + PARTIAL)
        file = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _locked(file, partial):
                return  # whoever wrote it has renamed it meanwhile, or given up
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
    """Waits until this process may write a copy; False if the file has got another name meanwhile.

    It is asked for now and then: once renamed, the same file is locked by its readers, for as long as they read.
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
    """Says what a disk that refuses means; errors of the store pass."""
    try:
        yield
    except (StoreError, FileNotFoundError):
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = f'free some space, set {FOLDER} to a folder on another disk' if full else f'set {FOLDER} to another folder'
        limit = f', or {LIMIT} to what may be used, so that older copies make room' if full else ''
        raise StoreError(
            f'{folder} cannot keep a copy of {shown(url)} ({size:,} bytes): {error.strerror or error}; {remedy}{limit}'
        ) from error


def _make_room(place: Path, size: int, have: int) -> None:
    """Removes the copies used least recently until the limit is kept; those that are open or being written stay.

    One process at a time: each sees what the others are about to write by the sizes in the names.
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
            f'{place.parent}: copies in use ({used - size:,} bytes) and the next shard ({size:,}) do not fit into {LIMIT}='
            f'{os.environ[LIMIT]}; raise it, or read fewer shards at once (slot_lanes, step_lanes of ShardSampler; workers)'
        )


def _removed(path: str) -> bool:
    """Whether a copy could be removed: nobody has it open."""
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
    """Fetches what is missing of a shard, and makes sure that all of it is of one version."""
    _check_version(url, known, partial)
    size, have = int(known.split()[0]), os.fstat(file).st_size
    have = have if have <= size else 0
    fs, path = file_system(url)
    tries = Tries(url)
    while have < size:
        end = min(have + CHUNK, size)
        data = tries.run(functools.partial(_answer, fs, path, have, end, size))
        have = 0 if len(data) == size else have  # the server does not know ranges, and sends all
        try:
            _write(file, data, have)
        except OSError:
            partial.unlink(missing_ok=True)  # what it takes would be missing elsewhere, too
            raise
        have += len(data)
    os.ftruncate(file, size)
    _check_version(url, known, partial)


def _answer(fs, path: str, start: int, end: int, size: int) -> bytes:
    data = fs.cat_file(path, start=start, end=end)
    if not data or (len(data) > end - start and len(data) != size):
        raise OSError(f'{len(data)} bytes came instead of {end - start}')
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
        raise StoreError(f'{shown(url)} is no longer there, but was when the shards were listed') from error
    if now != known:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f'{shown(url)} has changed since the shards were listed ({known.decode()}, now {now.decode()}): start '
            'again to index it anew; shards must not change during a run'
        )
