"""Which images a set of tar shards holds, and where: found once, then kept in a cache.

Layout: webdataset's (github.com/webdataset/webdataset): members that share their path up to the first dot of the base name
are one sample, ``0001.jpg`` with ``0001.cls`` (a number as text) or ``0001.json`` (``{"label": number}``). As there, a key
that has the same extension twice in a shard is an error.
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

BLOCK = 512  # zeros, that end a tar file
NO_LABEL = -1
CACHE_VERSION = 3
LOG_SECONDS = 30.0
IMAGES = frozenset(map(str.encode, EXTENSIONS))
LABELS = (b'.cls', b'.json')


@dataclass
class TarIndex:
    """Images of all shards, shard after shard: (N,) arrays and names.

    ``versions``: of each shard its size and time, or tag in an object store, when it was indexed. ``cut``: a message for
    each shard that is cut short. ``hidden``, ``links``, ``beside``: members that were left out: hidden ones, links named as
    images, and images of a sample that has another one before.
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
        """All of it as arrays by name, which may be written to files and mapped."""
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
        """What ``arrays`` gave; a KeyError or ValueError if they are not those."""
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
    """What one shard holds.

    ``names``, ``offsets``, ``sizes``, ``labels``: of its whole images, in the order of the file. ``cut``: if it is cut
    short, a message that says so. The rest: see ``TarIndex``.
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
    """Paths or URLs of the shards, sorted, and the index of their images; from the cache if no shard has changed.

    Raises:
        FileNotFoundError: The folder does not exist, no shard matches, or one of a range in braces is missing.
        ValueError: A shard holds no whole image, a sample twice or a sparse image; or an image has no label where one is
            wanted.
        OSError: An object store cannot be read; see :mod:`mmadclr.datasets.remote`.
    """
    shards = find_shards(root, pattern)
    index = _cached(shards)
    for message in index.cut:
        print_log(os.fsdecode(message), 'current', logging.WARNING)
    kinds = {'hidden members': index.hidden, 'links': index.links, 'further images of samples': index.beside}
    for kind, names in kinds.items():
        if len(names):
            first = printable(os.fsdecode(names[0]))
            print_log(f'{shown(root)}: left out {len(names)} {kind} of shards ({first})', 'current')
    counts = np.bincount(index.shard_of, minlength=len(shards))
    if not counts.all():
        number = int(counts.argmin())
        size = int(index.versions[number].split()[0])
        raise ValueError(
            f'{shown(shards[number])} ({size:,} bytes) holds no whole image: it is cut short within the first '
            'one, or no uncompressed tar file, or its images are not named <key>.<extension> with one of '
            f'{", ".join(EXTENSIONS)}'
        )
    if with_label:
        _check_labels(index, shards)
    return shards, index


def find_shards(root: str | Path, pattern: str | Sequence[str]) -> list[str]:
    """Sorted paths below ``root`` that a glob, or a pattern with one range in braces, stands for; or several of them.

    Raises:
        FileNotFoundError: The folder does not exist, nothing matches, or a file of the range is missing.
        ValueError: Several patterns stand for the same shard.
    """
    if not isinstance(pattern, str):
        found = sorted(path for one in pattern for path in find_shards(root, one))
        twice = next((path for path, other in pairwise(found) if path == other), None)
        if twice is not None or not found:
            problem = 'no pattern' if twice is None else f'{shown(twice)} is named twice'
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
        which = f'{len(missing)} of {len(paths)} are missing, the first: {printable(missing[0])}'
        raise FileNotFoundError(f'shards={pattern!r} in {printable(root)}: {which}')
    return paths


def numbered(pattern: str) -> list[str] | None:
    """Names that a pattern with a range stands for: ``a-{08..10}.tar`` -> ``a-08.tar``, ...; None where there is none."""
    span = re.search(r'\{(\d+)\.\.(\d+)\}', pattern)
    if span is None:
        return None
    first, last = span.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [pattern[: span.start()] + number + pattern[span.end() :] for number in numbers]


def _matching(root: Path, pattern: str) -> list[str]:
    whole = os.path.join(glob.escape(str(root)), pattern)
    found = sorted(glob.glob(whole))
    hidden = len(glob.glob(whole, include_hidden=True)) - len(found)
    if hidden:
        print_log(f'{printable(root)}: left out {hidden} hidden files that match shards={pattern!r}', 'current')
    if not found:
        raise FileNotFoundError(f'no shard in {printable(root)} matches shards={pattern!r}')
    return found


def scan_shard(path: str) -> Scan:
    """What the shard at a local path holds; see ``scan``."""
    file = os.open(path, os.O_RDONLY)
    try:
        return scan(file, path)
    finally:
        os.close(file)


def scan(file: int, path: str) -> Scan:
    """What one shard holds.

    Args:
        file: Number of the open file.
        path: What messages call it.

    Raises:
        ValueError: A sample has two members of the same extension, or an image is stored sparse.
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
    """Key of the sample and extension in lower case, with its dot: ``a/b.seg.PNG`` -> ``a/b``, ``.seg.png``."""
    folder, slash, base = name.rpartition(b'/')
    stem, dot, extension = base.partition(b'.')
    return folder.rstrip(b'/') + slash + stem, (dot + extension).lower()


def _is_hidden(name: bytes, extension: bytes) -> bool:
    """The same as ``names.is_hidden``, once for each folder of images and labels."""
    if extension not in IMAGES and extension not in LABELS:
        return is_hidden(os.fsdecode(name))
    folder, _, base = name.rpartition(b'/')
    return base[0] == ord('.') or (bool(folder) and _is_hidden_folder(folder))


@lru_cache(maxsize=1 << 12)
def _is_hidden_folder(folder: bytes) -> bool:
    return is_hidden(os.fsdecode(folder))


def _leave_out(found: Scan, path: str, name: bytes, kind: str, other: bytes) -> None:
    """Takes note of an image that is not used, or raises the error that it is."""
    if kind is LINK:
        found.links.append(name)
    elif kind is SPARSE:
        raise ValueError(
            f'{shown(path)}: {printable(os.fsdecode(name))} is stored sparse, which cannot be read in one piece: pack '
            'the shard again without tar --sparse'
        )
    elif split_key(other) == split_key(name):
        raise _twice(path, name)
    else:
        found.beside.append(name)


def _twice(path: str, name: bytes) -> ValueError:
    return ValueError(
        f'{shown(path)}: {printable(os.fsdecode(name))} is in it twice, as after appending to a tar file: unpack it '
        '(the later one stays) and pack it again, or give the samples different keys'
    )


def _label(text: bytes, extension: bytes) -> int:
    try:
        label = int(text) if extension == b'.cls' else json.loads(text).get('label')
    except (ValueError, AttributeError):
        return NO_LABEL
    return label if isinstance(label, int) and 0 <= label < MAX_CLASSES else NO_LABEL


def _finished(found: Scan, places: dict[bytes, int], labels: dict[tuple[bytes, bytes], int], path: str, ended: bool) -> Scan:
    """With labels; without the last image of a shard that is cut short, if its label is missing alone."""
    columns = ([labels.get((key, extension), NO_LABEL) for key in places] for extension in LABELS)
    found.labels.extend(map(max, *columns))
    if not found.names or ended:
        return found
    if found.labels[-1] == NO_LABEL and any(label != NO_LABEL for label in found.labels[:-1]):
        for column in (found.names, found.offsets, found.sizes, found.labels):
            column.pop()  # its label lay beyond the cut
    return found._replace(cut=f'{shown(path)} is cut short: the {len(found.names)} images that are whole are used')


def _check_labels(index: TarIndex, shards: list[str]) -> None:
    bad = np.flatnonzero(index.labels == NO_LABEL)
    if len(bad):
        name, shard = printable(os.fsdecode(index.names[bad[0]])), shown(shards[index.shard_of[bad[0]]])
        raise ValueError(
            f'{len(bad)} of {len(index.labels)} images have no label, the first: {name} in {shard}; put a <key>.cls with '
            'the number of the class, or a <key>.json with "label", beside each image, or drop with_label'
        )


def _cached(shards: list[str]) -> TarIndex:
    """Index of the shards, read from the cache if one was written for these files as they are."""
    store = RemoteShards(shards) if is_url(shards[0]) else None
    versions = [_local_version(path) for path in shards] if store is None else store.versions
    places = [os.path.abspath(path) if store is None else shown(path) for path in shards]
    facts = [(place, os.fsdecode(version)) for place, version in zip(places, versions, strict=True)]
    key = hashlib.sha256(json.dumps([CACHE_VERSION, facts]).encode()).hexdigest()[:32]
    place = cache_folder() / f'index-{key}'
    try:
        return _read(place)
    except (OSError, ValueError, KeyError, EOFError):
        pass  # not there, or not whole: made anew
    print_log(f'looking for the images of {len(shards)} shards, once for all (kept in {place.parent})', 'current')
    if store is None:
        index = _joined(_told(map(scan_shard, shards), len(shards)), versions)
    else:
        index = _joined(_told(store.each(lambda number, file: scan(file, shards[number])), len(shards)), versions)
    try:
        _write(place, index)
    except OSError as error:
        print_log(f'{place} cannot be written ({error}): every start looks again', 'current', logging.WARNING)
    return index


def _local_version(path: str) -> bytes:
    stat = os.stat(path)
    return b'%d %d' % (stat.st_size, stat.st_mtime_ns)


def _told(scans: Iterable[Scan], total: int, clock: Callable[[], float] = time.monotonic) -> Iterable[Scan]:
    """The scans, with a line in the log now and then that says how far they have come."""
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
    """Arrays of all shards; those of a shard replace its lists before the next one is looked at."""
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
    """An index of the cache, mapped: all processes of a machine share its memory."""
    found = {path.name.removesuffix('.npy'): np.load(path, mmap_mode='r', allow_pickle=False) for path in place.iterdir()}
    return TarIndex.of({name: array.view(np.ndarray) for name, array in found.items()})


def _write(place: Path, index: TarIndex) -> None:
    """Under another name until it is whole, as several processes may start at once; the last one's stays."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=place.parent, prefix='.'))
    try:
        for name, array in index.arrays().items():
            np.save(partial / f'{name}.npy', array)
        if place.exists():  # one that cannot be read, or another process was faster
            place.rename(partial / 'old')
        partial.rename(place)
        shutil.rmtree(place / 'old', ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
