"""Going through a folder of images as it lies on a disk: with links, hidden leftovers and files that are no images."""

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
# Every way to write an extension: a name is looked up as it is, without making a lower-case copy.
SUFFIXES = frozenset(''.join(letters) for name in EXTENSIONS for letters in product(*zip(name, name.upper(), strict=True)))
SLASH = ord('/')
# Links among folders can make more paths than there are atoms; no one wants a folder this often.
MAX_VISITS = 1000


@dataclass
class Found:
    """What lies below a folder, by relative paths.

    Attributes:
        images: By their names; those of a folder before those of its subfolders, each in alphabetical order.
        counts: How many images lie below each folder directly below the root, in the order of ``images``; below ``''`` those
            that lie in none.
        others: How many files there are of each other kind.
        hidden: Folders and files that begin with a dot, or were left by a system; what lies in them is not looked at.
        loops: Links to a folder they lie in, which were not followed.
        broken: Links that lead nowhere. Those named as images are among ``images``: they cannot be read.
        repeated: Links to folders that have been visited before, or lie in the same root; they were followed.
    """

    images: ByteStrings = field(default_factory=lambda: ByteStrings.of([]))
    counts: Counter = field(default_factory=Counter)
    others: Counter = field(default_factory=Counter)
    hidden: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def walk(root: str | Path) -> Found:
    """Every image below ``root``, at any depth; links are followed, but into no folder that they lie in.

    Raises:
        ValueError: A folder cannot be read, or links lead to one folder by more than ``MAX_VISITS`` paths.
    """
    tour = _Tour(root)
    left = ['']
    while left:
        folder = left.pop()
        left += [os.path.join(folder, name) for name in reversed(tour.look_into(folder))]
    tour.found.images = tour.names.strings()
    return tour.found


def subfolders(root: str | Path) -> list[str]:
    """Names of the folders directly below ``root`` that ``walk`` enters, sorted.

    Raises:
        ValueError: See ``walk``.
    """
    return _Tour(root).look_into('')


def directly_below(root: str | Path) -> tuple[list[str], ByteStrings]:
    """``subfolders``, and the images that lie directly in ``root``, sorted: by one look into one folder.

    Raises:
        ValueError: See ``walk``.
    """
    tour = _Tour(root)
    return tour.look_into(''), tour.names.strings()


def report(root: str | Path, found: Found) -> None:
    """A line in the log for each kind of thing that was left out, or may not be meant."""
    name = printable(root)
    if found.others:
        kinds = ', '.join(f'{count} x {printable(kind)}' for kind, count in found.others.most_common(5))
        total = found.others.total()
        print_log(f'{name}: left out {total} files that are no images by their name ({kinds})', 'current')
    if found.hidden:
        print_log(f'{name}: left out {len(found.hidden)} hidden files and folders ({_some(found.hidden)})', 'current')
    lines = {
        'left out {} links to a folder that they lie in': found.loops,
        '{} links lead nowhere; those named as images count as unreadable': found.broken,
        '{} links lead to folders that another path leads to, so their images are listed more than once': found.repeated,
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
    """Names that grow by a folder at a time, in one piece of memory that need not be copied in the end."""

    def __init__(self) -> None:
        self.data, self.lengths = bytearray(), array('i')

    def add(self, folder: str, names: list[str]) -> None:
        """The names of files of a relative folder, one or more."""
        prefix, joined = (os.fsencode(part) for part in (os.path.join(folder, ''), '/'.join(names)))  # no name has a slash
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
    """A tour through a folder; ``found`` and ``names`` are what it has found so far."""

    def __init__(self, root: str | Path) -> None:
        self.root, self.found, self.names = os.fspath(root), Found(), _Names()
        self.identities: dict[str, tuple[int, int]] = {}
        self.visits: Counter = Counter()

    def look_into(self, folder: str) -> list[str]:
        """Takes note of the files of a folder; returns the names of its subfolders to enter, sorted."""
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
        return ValueError(f'folder {where} cannot be read ({error.strerror}): change that, or move it away')

    def note_all(self, folder: str, images: list[str], rest: list[tuple[str, os.DirEntry | None]]) -> list[str]:
        """Takes note of what ``_plain_images`` found in a folder that is still open."""
        kinds = [(name, self.note(folder, name, entry)) for name, entry in sorted(rest, key=itemgetter(0))]
        more = [name for name, kind in kinds if kind == 'image']
        if more:
            images = sorted(images + more)
        if images:
            self.names.add(folder, images)
            self.found.counts[folder.partition(os.sep)[0]] += len(images)
        return [name for name, kind in kinds if kind == 'folder']

    def note(self, folder: str, name: str, entry: os.DirEntry | None) -> str | None:
        """Takes note of something in a folder (a plain file, where ``entry`` is None).

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
            self.found.others['pipe or device'] += 1  # opening it might wait for ever
        return None

    def note_file(self, name: str) -> str | None:
        extension = _extension(name)
        if extension in EXTENSIONS:
            return 'image'
        self.found.others[extension or name] += 1
        return None

    def may_follow(self, link: str, folder: str) -> bool:
        """Whether a link to a folder leads to none that it lies in."""
        target = self.identity(link)
        if target in (self.identity(above) for above in _ancestors(folder)):
            self.found.loops.append(link)
            return False
        self.visits[target] += 1
        if self.visits[target] > MAX_VISITS:
            raise ValueError(
                f'{printable(self.root)}: links lead to one folder by more than {MAX_VISITS} paths, one of them '
                f'{printable(link)}: remove links'
            )
        inside = os.path.join(os.path.realpath(self.root), '')
        if self.visits[target] > 1 or os.path.realpath(os.path.join(self.root, link)).startswith(inside):
            self.found.repeated.append(link)
        return True

    def identity(self, folder: str) -> tuple[int, int]:
        """Device and number of a folder, whatever path leads to it."""
        if folder not in self.identities:
            stat = os.stat(os.path.join(self.root, folder))
            self.identities[folder] = stat.st_dev, stat.st_ino
        return self.identities[folder]


def _plain_images(file: int) -> tuple[list[str], list[tuple[str, os.DirEntry | None]]]:
    """Names of the files in an open folder that are plainly images, sorted; and everything else: plain files without entry.

    Millions of names pass here. The kind of an entry comes with its name, so that none is looked at by itself, unless it is
    a link; and of most folders it is enough to look at all names at once. An entry of a folder that is opened by a number
    holds no path, which would have to be made.
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
    """Whether names share an extension of images, and none is hidden."""
    suffix, joined = _suffix(names[0]) if names else '', f'/{"/".join(names)}/'
    return suffix in SUFFIXES and '/.' not in joined and joined.count(f'{suffix}/') == len(names)


def _is_image(name: str) -> bool:
    return _suffix(name) in SUFFIXES and name[0] != '.'


def _suffix(name: str) -> str:
    return name[name.rfind('.') :]


def _ancestors(folder: str) -> Iterator[str]:
    """A relative folder, those above it, and the root (``''``)."""
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
        entry.stat()  # kept by the entry, for what is asked of it next
    except OSError:
        return True
    return False
