"""Which images a set of tar shards holds, and where: found once, then kept in a cache.

Layout: webdataset's (github.com/webdataset/webdataset): members that share their path up to the first dot of the base name
are one sample, ``0001.jpg`` with ``0001.cls`` (a number as text) or ``0001.json`` (``{"label": number}``).
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from mmengine.logging import print_log

from mmadclr.datasets.names import is_hidden, printable
from mmadclr.datasets.readers import MAX_CLASSES, existing_folder
from mmadclr.datasets.walking import EXTENSIONS

BLOCK = 512  # everything in a tar file is padded to this
NO_LABEL = -1
CACHE_VERSION = 2


@dataclass
class TarIndex:
    """Images of one shard, or of all: (N,) arrays; a message for each shard that is cut short; names of hidden members."""

    shard_of: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    cut: np.ndarray  # of bytes
    hidden: np.ndarray  # of bytes


class Entry(NamedTuple):
    """One image of a shard."""

    name: str
    offset: int
    size: int
    label: int


class Scan(NamedTuple):
    """What a shard holds.

    ``entries``: its whole images, in the order of the file. ``cut``: if it is cut short, a message that says so.
    ``hidden``: names of members that are hidden (``._0001.jpg``, ``__MACOSX``) and were left out.
    """

    entries: list[Entry]
    cut: str | None
    hidden: list[str]


def read_shards(root: str | Path, pattern: str, with_label: bool) -> tuple[list[str], TarIndex]:
    """Paths of the shards, sorted, and the index of their images; from the cache if no shard has changed.

    Raises:
        FileNotFoundError: The folder does not exist, no shard matches, or one of a range in braces is missing.
        ValueError: A shard holds no whole image, or an image has no label where one is wanted.
    """
    shards = find_shards(root, pattern)
    index = _cached(shards)
    for message in index.cut:
        print_log(os.fsdecode(bytes(message)), 'current', logging.WARNING)
    if len(index.hidden):
        first = printable(os.fsdecode(bytes(index.hidden[0])))
        print_log(f'{printable(root)}: left out {len(index.hidden)} hidden members of shards ({first})', 'current')
    counts = np.bincount(index.shard_of, minlength=len(shards))
    if not counts.all():
        shard = shards[int(counts.argmin())]
        raise ValueError(
            f'{printable(shard)} ({os.path.getsize(shard):,} bytes) holds no whole image: it is cut short within the first '
            'one, or no uncompressed tar file, or its images are not named <key>.<extension> with one of '
            f'{", ".join(EXTENSIONS)}'
        )
    if with_label:
        _check_labels(index, shards)
    return shards, index


def find_shards(root: str | Path, pattern: str) -> list[str]:
    """Sorted paths below ``root`` that a glob, or a pattern with one range in braces, stands for.

    Raises:
        FileNotFoundError: The folder does not exist, nothing matches, or a file of the range is missing.
    """
    root = existing_folder(root)
    span = re.search(r'\{(\d+)\.\.(\d+)\}', pattern)
    if span is None:
        whole = os.path.join(glob.escape(str(root)), pattern)
        found = sorted(glob.glob(whole))
        hidden = len(glob.glob(whole, include_hidden=True)) - len(found)
        if hidden:
            print_log(f'{printable(root)}: left out {hidden} hidden files that match shards={pattern!r}', 'current')
        if not found:
            raise FileNotFoundError(f'no shard in {printable(root)} matches shards={pattern!r}')
        return found
    first, last = span.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    paths = [str(root / (pattern[: span.start()] + number + pattern[span.end() :])) for number in numbers]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing or not paths:
        which = (
            f'{len(missing)} of {len(paths)} are missing, the first: {printable(missing[0])}'
            if missing
            else 'an empty range'
        )
        raise FileNotFoundError(f'shards={pattern!r} in {printable(root)}: {which}')
    return paths


def scan_shard(path: str) -> Scan:
    """What one shard holds."""
    samples: dict[str, Entry] = {}
    labels: dict[str, int] = {}
    hidden: list[str] = []
    end, size = 0, os.path.getsize(path)
    with open(path, 'rb') as file:
        for member in _members(path):
            end = member.offset_data + -(-member.size // BLOCK) * BLOCK
            if not member.isfile() or member.offset_data + member.size > size:
                continue
            if is_hidden(member.name):
                hidden.append(member.name)
                continue
            key, extension = split_key(member.name)
            if extension in EXTENSIONS:
                samples.setdefault(key, Entry(member.name, member.offset_data, member.size, NO_LABEL))
            elif extension in ('.cls', '.json'):
                labels[key] = max(_read_label(file, member, extension), labels.get(key, NO_LABEL))
    entries = [entry._replace(label=labels.get(key, NO_LABEL)) for key, entry in samples.items()]
    if not entries or _is_zero_block(path, end):
        return Scan(entries, None, hidden)
    if any(entry.label != NO_LABEL for entry in entries[:-1]) and entries[-1].label == NO_LABEL:
        entries = entries[:-1]  # its label lay beyond the cut
    return Scan(entries, f'{printable(path)} is cut short: the {len(entries)} images that are whole are used', hidden)


def split_key(name: str) -> tuple[str, str]:
    """Key of the sample and extension in lower case, with its dot: ``a/b.seg.PNG`` -> ``a/b``, ``.seg.png``."""
    folder, base = os.path.split(name)
    stem, dot, extension = base.partition('.')
    return os.path.join(folder, stem), (dot + extension).lower()


def _members(path: str) -> Iterator[tarfile.TarInfo]:
    """Headers of a tar file as far as they can be read."""
    try:
        with tarfile.open(path, 'r:') as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # kept otherwise: a million of them
                yield member
    except (tarfile.TarError, EOFError):
        return


def _is_zero_block(path: str, offset: int) -> bool:
    """Whether there is the block of zeros that ends a tar file."""
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.read(BLOCK) == bytes(BLOCK)


def _read_label(file: BinaryIO, member: tarfile.TarInfo, extension: str) -> int:
    file.seek(member.offset_data)
    text = file.read(member.size)
    try:
        label = int(text) if extension == '.cls' else json.loads(text).get('label')
    except (ValueError, AttributeError):
        return NO_LABEL
    return label if isinstance(label, int) and 0 <= label < MAX_CLASSES else NO_LABEL


def _check_labels(index: TarIndex, shards: list[str]) -> None:
    bad = np.flatnonzero(index.labels == NO_LABEL)
    if len(bad):
        name, shard = (printable(part) for part in (os.fsdecode(index.names[bad[0]]), shards[index.shard_of[bad[0]]]))
        raise ValueError(
            f'{len(bad)} of {len(index.labels)} images have no label, the first: {name} in {shard}; put a <key>.cls with '
            'the number of the class, or a <key>.json with "label", beside each image, or drop with_label'
        )


def _cached(shards: list[str]) -> TarIndex:
    """Index of the shards, read from the cache if one was written for these files as they are."""
    facts = [(os.path.abspath(path), os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in shards]
    key = hashlib.sha256(json.dumps([CACHE_VERSION, facts]).encode()).hexdigest()[:32]
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    place = Path(home) / 'mmadclr' / f'shards-{key}.npz'
    try:
        with np.load(place, allow_pickle=False) as arrays:
            return TarIndex(**{field.name: arrays[field.name] for field in fields(TarIndex)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or not whole: made anew
    print_log(f'looking for the images of {len(shards)} shards, once for all (kept in {place.parent})', 'current')
    index = _scan(shards)
    try:
        _write(place, index)
    except OSError as error:
        print_log(f'{place} cannot be written ({error}): every start looks again', 'current', logging.WARNING)
    return index


def _scan(shards: list[str]) -> TarIndex:
    scanned = [scan_shard(path) for path in shards]
    entries = [entry for scan in scanned for entry in scan.entries]
    return TarIndex(
        shard_of=np.repeat(np.arange(len(shards)), [len(scan.entries) for scan in scanned]),
        offsets=np.array([entry.offset for entry in entries], dtype=np.int64),
        sizes=np.array([entry.size for entry in entries], dtype=np.int64),
        labels=np.array([entry.label for entry in entries], dtype=np.int64),
        names=np.array([os.fsencode(entry.name) for entry in entries], dtype=np.bytes_),
        cut=np.array([os.fsencode(scan.cut) for scan in scanned if scan.cut], dtype=np.bytes_),
        hidden=np.array([os.fsencode(name) for scan in scanned for name in scan.hidden], dtype=np.bytes_),
    )


def _write(place: Path, index: TarIndex) -> None:
    """Atomic, as several processes may start at once."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        partial = Path(folder) / place.name
        np.savez(partial, **{field.name: getattr(index, field.name) for field in fields(TarIndex)})
        partial.replace(place)
