"""Walks image folders on disk, including links, hidden files and files that are not images."""

from __future__ import annotations

import logging
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmadclr.datasets.byte_strings import ByteStrings
from mmadclr.names import is_hidden, printable

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.gif')
# All upper/lower-case variants of extensions, to look up names without a lower-case copy.
SUFFIXES = frozenset(''.join(letters) for name in EXTENSIONS for letters in product(*zip(name, name.upper(), strict=True)))
SLASH = ord('/')
# Links between folders can create exponentially many paths; no folder is needed this often.
MAX_VISITS = 1000


@dataclass
class Found:
    """Contents of a folder, by relative paths.

    Attributes:
        images: Their names; those of a folder before those of its subfolders, each in alphabetical order.
        counts: Number of images in each direct subfolder of the root, in the order of ``images``; in ``''`` those
            directly in the root.
        others: Number of files of each other type.
        hidden: Folders and files that start with a dot, or system files; their contents are skipped.
        loops: Links to a parent folder, which are not followed.
        broken: Broken links. Those with image names are also in ``images``: they count as unreadable.
        repeated: Links to folders already visited or inside the root; they are followed.
    """

    images: ByteStrings = field(default_factory=lambda: ByteStrings.of([]))
    counts: Counter = field(default_factory=Counter)
    others: Counter = field(default_factory=Counter)
    hidden: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def walk(root: str | Path) -> Found:
    """All images in ``root`` and its subfolders; links are followed, except to their parent folders.

    Raises:
        ValueError: A folder cannot be read, or more than ``MAX_VISITS`` paths lead to one folder.
    """
    tour = _Tour(root)
    left = ['']
    while left:
        folder = left.pop()
        left += [os.path.join(folder, name) for name in reversed(tour.look_into(folder))]
    tour.found.images = tour.names.strings()
    return tour.found


def subfolders(root: str | Path) -> list[str]:
    """Sorted names of the direct subfolders of ``root`` that ``walk`` enters.

    Raises:
        ValueError: See ``walk``.
    """
    return _Tour(root).look_into('')


def directly_below(root: str | Path) -> tuple[list[str], ByteStrings]:
    """``subfolders``, and the images directly in ``root``, sorted; reads only one folder.

    Raises:
        ValueError: See ``walk``.
    """
    tour = _Tour(root)
    return tour.look_into(''), tour.names.strings()


def report(root: str | Path, found: Found) -> None:
    """Logs one line per kind of skipped or suspicious item."""
    name = printable(root)
    if found.others:
        kinds = ', '.join(f'{count} x {printable(kind)}' for kind, count in found.others.most_common(5))
        total = found.others.total()
        print_log(f'{name}: skipped {total} files without an image extension ({kinds})', 'current')
    if found.hidden:
        print_log(f'{name}: skipped {len(found.hidden)} hidden files and folders ({_some(found.hidden)})', 'current')
    lines = {
        'skipped {} links to their own parent folders': found.loops,
        '{} links are broken; those with image names count as unreadable': found.broken,
        '{} links lead to folders found by another path, so their images are listed more than once': found.repeated,
    }
    for line, links in lines.items():
        if links:
            shown = ', '.join(f'{printable(link)} -> {_target(root, link)}' for link in links[:3])
            print_log(f'{name}: {line.format(len(links))} ({shown})', 'current', logging.WARNING)


def _some(paths: list[str]) -> str:
    return ', '.join(map(printable, paths[:3])) + (', ...' if len(paths) > 3 else '')


def _target(root: str | Path, link: str) -> str:
    try:
        return printable(os.readlink(os.path.join(root, link)))
    except OSError:
        return '?'


class _Names:
    """File names collected folder by folder in one buffer, without a final copy."""

    def __init__(self) -> None:
        self.data, self.lengths = bytearray(), array('i')

    def add(self, folder: str, names: list[str]) -> None:
        """Adds one or more file names of a relative folder."""
        prefix, joined = (
            os.fsencode(part) for part in (os.path.join(folder, ''), '/'.join(names))
        )  # names contain no slash
        self.data += prefix + joined.replace(b'/', prefix)
        ends = np.flatnonzero(np.frombuffer(joined + b'/', np.uint8) == SLASH)
        lengths = np.full(len(names), len(prefix) - 1, np.intc)
        lengths += ends
        lengths[0] += 1
        lengths[1:] -= ends[:-1]
        self.lengths.frombytes(lengths.tobytes())

    def strings(self) -> ByteStrings:
        starts = np.zeros(len(self.lengths) + 1, dtype=np.int64)
        if self.lengths:
            np.cumsum(np.frombuffer(self.lengths, np.intc), out=starts[1:])
        return ByteStrings(np.frombuffer(self.data, dtype=np.uint8), starts)


class _Tour:
    """A walk through a folder; ``found`` and ``names`` are its results so far."""

    def __init__(self, root: str | Path) -> None:
        self.root, self.found, self.names = os.fspath(root), Found(), _Names()
        self.identities: dict[str, tuple[int, int]] = {}
        self.visits: Counter = Counter()

    def look_into(self, folder: str) -> list[str]:
        """Records the files of a folder; returns the sorted names of its subfolders to enter."""
        try:
            file = os.open(os.path.join(self.root, folder), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise self.unreadable(folder, error) from error
        try:
            return self.note_all(folder, *_plain_images(file))
        except OSError as error:
            raise self.unreadable(folder, error) from error
        finally:
            os.close(file)

    def unreadable(self, folder: str, error: OSError) -> ValueError:
        where = printable(os.path.join(self.root, folder))
        return ValueError(f'folder {where} cannot be read ({error.strerror}): make it readable, or move it')

    def note_all(self, folder: str, images: list[str], rest: list[tuple[str, os.DirEntry | None]]) -> list[str]:
        """Records what ``_plain_images`` found in a folder that is still open."""
        kinds = [(name, self.note(folder, name, entry)) for name, entry in sorted(rest, key=itemgetter(0))]
        more = [name for name, kind in kinds if kind == 'image']
        if more:
            images = sorted(images + more)
        if images:
            self.names.add(folder, images)
            self.found.counts[folder.partition(os.sep)[0]] += len(images)
        return [name for name, kind in kinds if kind == 'folder']

    def note(self, folder: str, name: str, entry: os.DirEntry | None) -> str | None:
        """Records an entry of a folder (a regular file if ``entry`` is None).

        Returns:
            ``'folder'`` for one to enter, ``'image'`` for an image.
        """
        path = os.path.join(folder, name)
        if is_hidden(name):
            self.found.hidden.append(path)
        elif entry is None:
            return self.note_file(name)
        elif _leads_nowhere(entry):
            self.found.broken.append(path)
            return 'image' if _extension(name) in EXTENSIONS else None
        elif entry.is_dir():
            return 'folder' if not entry.is_symlink() or self.may_follow(path, folder) else None
        elif entry.is_file():
            return self.note_file(name)
        else:
            self.found.others['pipe or device'] += 1  # opening it might block forever
        return None

    def note_file(self, name: str) -> str | None:
        extension = _extension(name)
        if extension in EXTENSIONS:
            return 'image'
        self.found.others[extension or name] += 1
        return None

    def may_follow(self, link: str, folder: str) -> bool:
        """Whether a link to a folder does not lead to one of its parents."""
        target = self.identity(link)
        if target in (self.identity(above) for above in _ancestors(folder)):
            self.found.loops.append(link)
            return False
        self.visits[target] += 1
        if self.visits[target] > MAX_VISITS:
            raise ValueError(
                f'{printable(self.root)}: more than {MAX_VISITS} paths lead to the same folder through links, one of them '
                f'{printable(link)}: remove links'
            )
        inside = os.path.join(os.path.realpath(self.root), '')
        if self.visits[target] > 1 or os.path.realpath(os.path.join(self.root, link)).startswith(inside):
            self.found.repeated.append(link)
        return True

    def identity(self, folder: str) -> tuple[int, int]:
        """Device and inode of a folder, independent of the path."""
        if folder not in self.identities:
            stat = os.stat(os.path.join(self.root, folder))
            self.identities[folder] = stat.st_dev, stat.st_ino
        return self.identities[folder]


def _plain_images(file: int) -> tuple[list[str], list[tuple[str, os.DirEntry | None]]]:
    """Sorted names of files in an open folder that clearly are images, and all other entries; regular files without entry.

    Optimized for millions of names: the type of an entry comes with its name, so only links need a
    stat call; in most folders one check of all names at once suffices. Entries of a folder opened by descriptor
    have no path, which would have to be built.
    """
    odd: list[os.DirEntry] = []
    with os.scandir(file) as entries:
        put_aside: Callable[[os.DirEntry], Any] = odd.append  # which gives None, so that no name is taken
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False) or put_aside(entry)]
    rest: list[tuple[str, os.DirEntry | None]] = [(entry.name, entry) for entry in odd]
    names.sort()
    if not _all_images(names):
        rest += [(name, None) for name in names if not _is_image(name)]
        names = [name for name in names if _is_image(name)]
    return names, rest


def _all_images(names: list[str]) -> bool:
    """Whether all names have the same image extension, and none is hidden."""
    suffix, joined = _suffix(names[0]) if names else '', f'/{"/".join(names)}/'
    return suffix in SUFFIXES and '/.' not in joined and joined.count(f'{suffix}/') == len(names)


def _is_image(name: str) -> bool:
    return _suffix(name) in SUFFIXES and name[0] != '.'


def _suffix(name: str) -> str:
    return name[name.rfind('.') :]


def _ancestors(folder: str) -> Iterator[str]:
    """A relative folder, its parents, and the root (``''``)."""
    while folder:
        yield folder
        folder = os.path.dirname(folder)
    yield ''


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _leads_nowhere(entry: os.DirEntry) -> bool:
    if not entry.is_symlink():
        return False
    try:
        entry.stat()  # cached by the entry for the next calls
    except OSError:
        return True
    return False
