"""Index of the images in tar shards, which is computed once and cached.

Layout: webdataset's (github.com/webdataset/webdataset): members that share their path up to the first dot of the base name
form a sample, ``0001.jpg`` with ``0001.cls`` (a number as text) or ``0001.json`` (``{"label": number}``). As there, a
duplicate extension of a key in a shard is an error.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log

from mmadclr.datasets import remote
from mmadclr.datasets.byte_strings import ByteStrings
from mmadclr.datasets.readers import MAX_CLASSES, existing_folder
from mmadclr.datasets.shard_cache import RemoteShards, cache_folder
from mmadclr.datasets.tar_headers import FILE, LINK, OTHER, SPARSE, TarBytes, members
from mmadclr.datasets.walking import EXTENSIONS
from mmadclr.names import is_hidden, printable
from mmadclr.urls import is_url, shown

BLOCK = 512  # a block of zeros ends a tar file
NO_LABEL = -1
CACHE_VERSION = 3
LOG_SECONDS = 30.0
IMAGES = frozenset(map(str.encode, EXTENSIONS))
LABELS = (b'.cls', b'.json')


@dataclass
class TarIndex:
    """Images of all shards, in shard order: (N,) arrays and names.

    ``versions``: size and modification time (or version tag in an object store) of each shard when indexed. ``cut``: a
    message for each truncated shard. ``hidden``, ``links``, ``beside``: skipped members: hidden ones, links with image
    names, and additional images of a sample.
    """

    shard_of: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    names: ByteStrings
    versions: ByteStrings
    cut: ByteStrings
    hidden: ByteStrings
    links: ByteStrings
    beside: ByteStrings

    def arrays(self) -> dict[str, np.ndarray]:
        """All contents as arrays by name, which can be written to files and memory-mapped."""
        flat: dict[str, np.ndarray] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, ByteStrings):
                flat |= {f'{field.name}.data': value.data, f'{field.name}.starts': value.starts}
            else:
                flat[field.name] = value
        return flat

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> TarIndex:
        """The inverse of ``arrays``; raises KeyError or ValueError for invalid arrays."""
        strings = {name.removesuffix('.data') for name in arrays if name.endswith('.data')}
        columns: dict[str, Any] = {
            field.name: ByteStrings(arrays[f'{field.name}.data'], arrays[f'{field.name}.starts'])
            if field.name in strings
            else arrays[field.name]
            for field in fields(cls)
        }
        index = cls(**columns)
        if {len(index.names)} != {len(column) for column in (index.shard_of, index.offsets, index.sizes, index.labels)}:
            raise ValueError('columns of an index have different lengths')
        return index


class Scan(NamedTuple):
    """Contents of one shard.

    ``names``, ``offsets``, ``sizes``, ``labels``: of its complete images, in file order. ``cut``: a message if it is
    truncated. Others: see ``TarIndex``.
    """

    names: list[bytes]
    offsets: list[int]
    sizes: list[int]
    labels: list[int]
    cut: str | None
    hidden: list[bytes]
    links: list[bytes]
    beside: list[bytes]


def read_shards(root: str | Path, pattern: str | Sequence[str], with_label: bool) -> tuple[list[str], TarIndex]:
    """Sorted paths or URLs of the shards, and the index of their images; cached while no shard changes.

    Raises:
        FileNotFoundError: The folder does not exist, no shard matches, or one in a range is missing.
        ValueError: A shard has no complete image, a duplicate sample or a sparse image; or an image lacks a required
            label.
        OSError: An object store cannot be read; see :mod:`mmadclr.datasets.remote`.
    """
    shards = find_shards(root, pattern)
    index = _cached(shards)
    for message in index.cut:
        print_log(os.fsdecode(message), 'current', logging.WARNING)
    kinds = {'hidden members': index.hidden, 'links': index.links, 'additional images of samples': index.beside}
    for kind, names in kinds.items():
        if len(names):
            first = printable(os.fsdecode(names[0]))
            print_log(f'{shown(root)}: skipped {len(names)} {kind} in shards ({first})', 'current')
    counts = np.bincount(index.shard_of, minlength=len(shards))
    if not counts.all():
        number = int(counts.argmin())
        size = int(index.versions[number].split()[0])
        raise ValueError(
            f'{shown(shards[number])} ({size:,} bytes) has no complete image: it is truncated within the first '
            'one, is not an uncompressed tar file, or its images are not named <key>.<extension> with one of '
            f'{", ".join(EXTENSIONS)}'
        )
    if with_label:
        _check_labels(index, shards)
    return shards, index


def find_shards(root: str | Path, pattern: str | Sequence[str]) -> list[str]:
    """Sorted paths in ``root`` that match a glob, a pattern with one range in braces, or a list of these.

    Raises:
        FileNotFoundError: The folder does not exist, nothing matches, or a file of the range is missing.
        ValueError: Several patterns match the same shard.
    """
    if not isinstance(pattern, str):
        found = sorted(path for one in pattern for path in find_shards(root, one))
        twice = next((path for path, other in pairwise(found) if path == other), None)
        if twice is not None or not found:
            problem = 'the list is empty' if twice is None else f'{shown(twice)} is listed twice'
            raise ValueError(f'shards={list(pattern)!r}: {problem}')
        return found
    names = numbered(pattern)
    if names is not None and not names:
        raise FileNotFoundError(f'shards={pattern!r} in {shown(root)}: an empty range')
    if is_url(root):
        return remote.find(str(root), pattern, names)
    root = existing_folder(root)
    if names is None:
        return _matching(root, pattern)
    paths = [str(root / name) for name in names]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        which = f'{len(missing)} of {len(paths)} are missing; the first: {printable(missing[0])}'
        raise FileNotFoundError(f'shards={pattern!r} in {printable(root)}: {which}')
    return paths


def numbered(pattern: str) -> list[str] | None:
    """Names in a pattern with a range: ``a-{08..10}.tar`` -> ``a-08.tar``, ...; None without a range."""
    span = re.search(r'\{(\d+)\.\.(\d+)\}', pattern)
    if span is None:
        return None
    first, last = span.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [pattern[: span.start()] + number + pattern[span.end() :] for number in numbers]


def _matching(root: Path, pattern: str) -> list[str]:
    full_pattern = os.path.join(glob.escape(str(root)), pattern)
    found = sorted(glob.glob(full_pattern))
    hidden = len(glob.glob(full_pattern, include_hidden=True)) - len(found)
    if hidden:
        print_log(f'{printable(root)}: skipped {hidden} hidden files that match shards={pattern!r}', 'current')
    if not found:
        raise FileNotFoundError(f'no shard in {printable(root)} matches shards={pattern!r}')
    return found


def scan_shard(path: str) -> Scan:
    """Contents of the shard at a local path; see ``scan``."""
    file = os.open(path, os.O_RDONLY)
    try:
        return scan(file, path)
    finally:
        os.close(file)


def scan(file: int, path: str) -> Scan:
    """Contents of one shard.

    Args:
        file: File descriptor.
        path: Name in messages.

    Raises:
        ValueError: A sample has two members with the same extension, or an image is stored sparse.
    """
    tar = TarBytes(file)
    found = Scan([], [], [], [], None, [], [], [])
    places: dict[bytes, int] = {}
    labels: dict[tuple[bytes, bytes], int] = {}
    end = 0
    for name, kind, offset, size, end in members(tar):  # noqa: B007
        if kind is OTHER or (kind is FILE and offset + size > tar.size):
            continue
        key, extension = split_key(name)
        if _is_hidden(name, extension):
            if kind is not LINK:
                found.hidden.append(name)
        elif extension in IMAGES:
            if kind is FILE and key not in places:
                places[key] = len(found.names)
                found.names.append(name)
                found.offsets.append(offset)
                found.sizes.append(size)
            else:
                _leave_out(found, path, name, kind, found.names[places[key]] if key in places else b'')
        elif extension in LABELS and kind is FILE:
            if (key, extension) in labels:
                raise _twice(path, name)
            labels[key, extension] = _label(tar.at(offset, size), extension)
    return _finished(found, places, labels, path, tar.at(end, BLOCK) == bytes(BLOCK))


def split_key(name: bytes) -> tuple[bytes, bytes]:
    """Sample key and lower-case extension with its dot: ``a/b.seg.PNG`` -> ``a/b``, ``.seg.png``."""
    folder, slash, base = name.rpartition(b'/')
    stem, dot, extension = base.partition(b'.')
    return folder.rstrip(b'/') + slash + stem, (dot + extension).lower()


def _is_hidden(name: bytes, extension: bytes) -> bool:
    """As ``names.is_hidden``, but cached per folder of images and labels."""
    if extension not in IMAGES and extension not in LABELS:
        return is_hidden(os.fsdecode(name))
    folder, _, base = name.rpartition(b'/')
    return base[0] == ord('.') or (bool(folder) and _is_hidden_folder(folder))


@lru_cache(maxsize=1 << 12)
def _is_hidden_folder(folder: bytes) -> bool:
    return is_hidden(os.fsdecode(folder))


def _leave_out(found: Scan, path: str, name: bytes, kind: str, other: bytes) -> None:
    """Records a skipped image, or raises if it is an error."""
    if kind is LINK:
        found.links.append(name)
    elif kind is SPARSE:
        raise ValueError(
            f'{shown(path)}: {printable(os.fsdecode(name))} is stored sparse, which is not supported: pack '
            'the shard again without tar --sparse'
        )
    elif split_key(other) == split_key(name):
        raise _twice(path, name)
    else:
        found.beside.append(name)


def _twice(path: str, name: bytes) -> ValueError:
    return ValueError(
        f'{shown(path)}: duplicate member {printable(os.fsdecode(name))}, as after appending to a tar file: unpack it '
        '(which keeps the later one) and pack it again, or use different keys'
    )


def _label(text: bytes, extension: bytes) -> int:
    try:
        label = int(text) if extension == b'.cls' else json.loads(text).get('label')
    except (ValueError, AttributeError):
        return NO_LABEL
    return label if isinstance(label, int) and 0 <= label < MAX_CLASSES else NO_LABEL


def _finished(found: Scan, places: dict[bytes, int], labels: dict[tuple[bytes, bytes], int], path: str, ended: bool) -> Scan:
    """Adds labels; drops the last image of a truncated shard if only its label is missing."""
    columns = ([labels.get((key, extension), NO_LABEL) for key in places] for extension in LABELS)
    found.labels.extend(map(max, *columns))
    if not found.names or ended:
        return found
    if found.labels[-1] == NO_LABEL and any(label != NO_LABEL for label in found.labels[:-1]):
        for column in (found.names, found.offsets, found.sizes, found.labels):
            column.pop()  # its label was truncated
    return found._replace(cut=f'{shown(path)} is truncated: using its {len(found.names)} complete images')


def _check_labels(index: TarIndex, shards: list[str]) -> None:
    bad = np.flatnonzero(index.labels == NO_LABEL)
    if len(bad):
        name, shard = printable(os.fsdecode(index.names[bad[0]])), shown(shards[index.shard_of[bad[0]]])
        raise ValueError(
            f'{len(bad)} of {len(index.labels)} images have no label, the first: {name} in {shard}; add a <key>.cls with '
            'the class index, or a <key>.json with "label", for each image, or remove with_label'
        )


def _cached(shards: list[str]) -> TarIndex:
    """Index of the shards, read from the cache if it exists for the current versions of these files."""
    store = RemoteShards(shards) if is_url(shards[0]) else None
    versions = [_local_version(path) for path in shards] if store is None else store.versions
    places = [os.path.abspath(path) if store is None else shown(path) for path in shards]
    facts = [(place, os.fsdecode(version)) for place, version in zip(places, versions, strict=True)]
    key = hashlib.sha256(json.dumps([CACHE_VERSION, facts]).encode()).hexdigest()[:32]
    place = cache_folder() / f'index-{key}'
    try:
        return _read(place)
    except (OSError, ValueError, KeyError, EOFError):
        pass  # missing or incomplete: index again
    print_log(f'indexing the images of {len(shards)} shards (cached in {place.parent})', 'current')
    if store is None:
        index = _joined(_told(map(scan_shard, shards), len(shards)), versions)
    else:
        index = _joined(_told(store.each(lambda number, file: scan(file, shards[number])), len(shards)), versions)
    try:
        _write(place, index)
    except OSError as error:
        print_log(f'{place} cannot be written ({error}): shards are indexed at every start', 'current', logging.WARNING)
    return index


def _local_version(path: str) -> bytes:
    stat = os.stat(path)
    return b'%d %d' % (stat.st_size, stat.st_mtime_ns)


def _told(scans: Iterable[Scan], total: int, clock: Callable[[], float] = time.monotonic) -> Iterable[Scan]:
    """Passes scans through, with occasional progress messages."""
    started = logged = clock()
    images = 0
    for done, one in enumerate(scans, start=1):
        yield one
        images += len(one.names)
        now = clock()
        if now - logged >= LOG_SECONDS:
            logged = now
            left = (total - done) * (now - started) / done
            print_log(f'{done} of {total} shards, {images:,} images, {left / 60:.0f} min left', 'current')


def _joined(scans: Iterable[Scan], versions: Iterable[bytes]) -> TarIndex:
    """Arrays of all shards; each shard is converted to arrays before the next one is scanned."""
    counts, columns, texts, cut = [], [], [], []
    for one in scans:
        counts.append(len(one.names))
        columns.append(np.array([one.offsets, one.sizes, one.labels], dtype=np.int64))
        texts.append([ByteStrings.of(part) for part in (one.names, one.hidden, one.links, one.beside)])
        cut += [os.fsencode(one.cut)] if one.cut else []
    offsets, sizes, labels = np.concatenate(columns, axis=1)
    names, hidden, links, beside = (_one_after_the_other(parts) for parts in zip(*texts, strict=True))
    shard_of = np.repeat(np.arange(len(counts)), counts)
    of_shards = ByteStrings.of(versions), ByteStrings.of(cut)
    return TarIndex(shard_of, offsets, sizes, labels, names, *of_shards, hidden, links, beside)


def _one_after_the_other(parts: Sequence[ByteStrings]) -> ByteStrings:
    begins = np.cumsum([0, *(len(part.data) for part in parts)])
    starts = [part.starts[:-1] + begin for part, begin in zip(parts, begins, strict=False)]
    return ByteStrings(np.concatenate([part.data for part in parts]), np.concatenate([*starts, begins[-1:]]))


def _read(place: Path) -> TarIndex:
    """A cached index, memory-mapped: all processes of a machine share its memory."""
    found = {path.name.removesuffix('.npy'): np.load(path, mmap_mode='r', allow_pickle=False) for path in place.iterdir()}
    return TarIndex.of({name: array.view(np.ndarray) for name, array in found.items()})


def _write(place: Path, index: TarIndex) -> None:
    """Writes under a temporary name until complete, as several processes may start at once; the last one wins."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=place.parent, prefix='.'))
    try:
        for name, array in index.arrays().items():
            np.save(partial / f'{name}.npy', array)
        if place.exists():  # unreadable, or written by another process
            place.rename(partial / 'old')
        partial.rename(place)
        shutil.rmtree(place / 'old', ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
