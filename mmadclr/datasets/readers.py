"""Finding images: a folder, a folder of class folders, or a text list. Each reader returns sorted, relative paths."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from mmadclr.annotations import MaybeNone
from mmadclr.datasets.byte_strings import ByteStrings
from mmadclr.datasets.walking import EXTENSIONS, Found, report, walk
from mmadclr.names import printable, read_lines

MAX_CLASSES = 1_000_000  # a larger label is none: classes are numbered without gaps


class Listing(NamedTuple):
    """Image paths relative to a root, and where known their labels (N,) int64 and the names of the classes."""

    paths: ByteStrings
    labels: np.ndarray | MaybeNone = None
    classes: tuple[str, ...] = ()


def read_folder(root: str | Path) -> Listing:
    """Every image below ``root``, at any depth, as ``walking.walk`` finds them; what was left out goes to the log.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: There is no image below it, or a folder cannot be read.
    """
    return Listing(_found_below(existing_folder(root)).images)


def _found_below(root: Path) -> Found:
    found = walk(root)
    report(root, found)
    if not found.images:
        raise ValueError(f'no image below {printable(root)}: looked for names ending in {", ".join(EXTENSIONS)}')
    return found


def read_class_folders(root: str | Path) -> Listing:
    """Images below ``root`` labeled by its direct subfolders, in alphabetical order (the layout of ImageNet).

    Names of classes are those of the folders as ``names.printable`` shows them.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: There is no image below it, or one lies outside every class folder.
    """
    found = _found_below(existing_folder(root))
    if '' in found.counts:
        raise ValueError(
            f'{printable(root)}: labels are read off class folders, but {printable(os.fsdecode(found.images[0]))} lies in '
            'none; drop with_label or move it'
        )
    labels = np.repeat(np.arange(len(found.counts)), list(found.counts.values()))  # as sorted as the folders were visited
    return Listing(found.images, labels, tuple(map(printable, found.counts)))


def read_list(ann_file: str | Path, root: str | Path, with_label: bool = False) -> Listing:
    """A text file with one path relative to ``root`` a line, in any encoding of ``names.read_lines``.

    With ``with_label`` an integer label follows, behind a blank or a tab; without, labels behind names of images are left
    out. A line that begins with # and names no file is a comment. Images named twice count twice, which is said.

    Raises:
        FileNotFoundError: ``ann_file`` or ``root`` does not exist.
        ValueError: The list is no text or empty, a line has no label where one is wanted, or an image has two.
    """
    existing_folder(root)
    name = printable(ann_file)
    if not Path(ann_file).is_file():
        raise FileNotFoundError(f'list of images {name} does not exist')
    lines = read_lines(ann_file)
    comments = {number for number, line in lines if line.startswith('#') and not _is_image_line(line, root)}
    if comments:
        lines = [(number, line) for number, line in lines if number not in comments]
    if not lines:
        raise ValueError(f'list of images {name} is empty')
    if comments:
        print_log(f'{name}: left out {len(comments)} comments', 'current')
    if not with_label:
        paths = [_without_label(line) for _, line in lines]
        labeled = sum(path != line for path, (_, line) in zip(paths, lines, strict=True))
        if labeled:
            print_log(f'{name}: the labels of {labeled} lines are not used (with_label=False)', 'current')
        _tell_repeated(name, paths)
        return Listing(ByteStrings.of(map(os.fsencode, paths)))
    named, labels = zip(*(_labeled(name, number, line) for number, line in lines), strict=True)
    if len(set(named)) < len(named):
        _check_same_labels(name, named, labels)
        _tell_repeated(name, named)
    classes = tuple(str(label) for label in range(max(labels) + 1))
    return Listing(ByteStrings.of(map(os.fsencode, named)), np.array(labels), classes)


def _is_image_line(line: str, root: str | Path) -> bool:
    """Whether a line that looks like a comment names a file, with or without a label behind it."""
    names = (line, line.rsplit(maxsplit=1)[0])
    return any(os.path.lexists(os.path.join(root, name)) for name in names)


def _without_label(line: str) -> str:
    """A line, without its last column if that is a number and the rest a name of an image."""
    path, label = _split(line)
    return path if label.isdecimal() and path.lower().endswith(EXTENSIONS) else line


def _labeled(name: str, number: int, line: str) -> tuple[str, int]:
    path, label = _split(line)
    if not (path and label.isascii() and label.isdecimal()):
        raise ValueError(f'{name}, line {number}: expected "path label", got {line!r}')
    if len(label) > len(str(MAX_CLASSES)) or int(label) >= MAX_CLASSES:
        raise ValueError(f'{name}, line {number}: label {label} is none: classes are numbered from 0, without gaps')
    return path, int(label)


def _split(line: str) -> tuple[str, str]:
    """Path and last column of a line; ``('', line)`` where there is one column alone."""
    cut = max(line.rfind(' '), line.rfind('\t'))
    return line[: max(cut, 0)].rstrip(' \t'), line[cut + 1 :]


def _check_same_labels(name: str, paths: Sequence[str], labels: Sequence[int]) -> None:
    known: dict[str, int] = {}
    for path, label in zip(paths, labels, strict=True):
        if known.setdefault(path, label) != label:
            raise ValueError(f'{name}: {printable(path)} has the labels {known[path]} and {label}: leave one out')


def _tell_repeated(name: str, paths: Sequence[str]) -> None:
    if len(set(paths)) == len(paths):
        return
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if repeated:
        message = f'{name}: {len(repeated)} images are named more than once, and count as often ({printable(repeated[0])})'
        print_log(message, 'current', logging.WARNING)


def existing_folder(root: str | Path) -> Path:
    """The folder as a path, or FileNotFoundError that says what to set."""
    root = Path(root)
    if not root.is_dir():
        kind = 'is a file, not a folder' if root.exists() else 'does not exist'
        raise FileNotFoundError(f'data_root {printable(root)} {kind}; set data_root of the dataset in the config')
    return root
