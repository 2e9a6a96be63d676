"""Going through a folder of images as it lies on a disk: with links, hidden leftovers and files that are no images."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.logging import print_log

from mmadclr.datasets.names import is_hidden, printable

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.gif')
# Links among folders can make more paths than there are atoms; no one wants a folder this often.
MAX_VISITS = 1000


@dataclass
class Found:
    """What lies below a folder, by relative paths.

    Attributes:
        images: By their names; those of a folder before those of its subfolders, each in alphabetical order.
        others: How many files there are of each other kind.
        hidden: Folders and files that begin with a dot, or were left by a system; what lies in them is not looked at.
        loops: Links to a folder they lie in, which were not followed.
        broken: Links that lead nowhere. Those named as images are among ``images``: they cannot be read.
        repeated: Links to folders that have been visited before, or lie in the same root; they were followed.
    """

    images: list[str] = field(default_factory=list)
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
    return tour.found


def subfolders(root: str | Path) -> list[str]:
    """Names of the folders directly below ``root`` that ``walk`` enters, sorted.

    Raises:
        ValueError: See ``walk``.
    """
    return _Tour(root).look_into('')


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


class _Tour:
    """A tour through a folder; ``found`` is what it has found so far."""

    def __init__(self, root: str | Path) -> None:
        self.root, self.found = os.fspath(root), Found()
        self.identities: dict[str, tuple[int, int]] = {}
        self.visits: Counter = Counter()

    def look_into(self, folder: str) -> list[str]:
        """Takes note of the files of a folder; returns the names of its subfolders to enter, sorted."""
        enter = []
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            where = printable(os.path.join(self.root, folder))
            raise ValueError(f'folder {where} cannot be read ({error.strerror}): change that, or move it away') from error
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if is_hidden(entry.name):
                self.found.hidden.append(path)
            elif _leads_nowhere(entry):
                self.found.broken.append(path)
                if _extension(entry.name) in EXTENSIONS:
                    self.found.images.append(path)
            elif entry.is_dir():
                if not entry.is_symlink() or self.may_follow(path, folder):
                    enter.append(entry.name)
            elif entry.is_file():
                self.note_file(path, entry.name)
            else:
                self.found.others['pipe or device'] += 1  # opening it might wait for ever
        return enter

    def note_file(self, path: str, name: str) -> None:
        extension = _extension(name)
        if extension in EXTENSIONS:
            self.found.images.append(path)
        else:
            self.found.others[extension or name] += 1

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


def _ancestors(folder: str) -> Iterator[str]:
    """A relative folder, those above it, and the root (``''``)."""
    while folder:
        yield folder
        folder = os.path.dirname(folder)
    yield ''


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _leads_nowhere(entry: os.DirEntry) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)
