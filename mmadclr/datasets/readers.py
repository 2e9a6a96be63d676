"""Finds images in a folder, in class folders, or from a text list. Readers return sorted relative paths."""

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

MAX_CLASSES = 1_000_000  # larger labels are invalid: classes are numbered without gaps


class Listing(NamedTuple):
    """Image paths relative to a root and, if known, their labels (N,) int64 and the class names."""

    paths: ByteStrings
    labels: np.ndarray | MaybeNone = None
    classes: tuple[str, ...] = ()


def read_folder(root: str | Path) -> Listing:
    """All images in ``root`` and its subfolders, as found by ``walking.walk``; skipped files are logged.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: There are no images, or a folder cannot be read.
    """
    return Listing(_found_below(existing_folder(root)).images)


def _found_below(root: Path) -> Found:
    found = walk(root)
    report(root, found)
    if not found.images:
        raise ValueError(f'no images in {printable(root)}: searched for names ending in {", ".join(EXTENSIONS)}')
    return found


def read_class_folders(root: str | Path) -> Listing:
    """Images in ``root`` labeled by its direct subfolders, in alphabetical order (ImageNet's layout).

    Class names are folder names as shown by ``names.printable``.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: There are no images, or one is outside of all class folders.
    """
    found = _found_below(existing_folder(root))
    if '' in found.counts:
        raise ValueError(
            f'{printable(root)}: labels are read from class folders, but {printable(os.fsdecode(found.images[0]))} is in '
            'none; remove with_label or move it'
        )
    labels = np.repeat(
        np.arange(len(found.counts)), list(found.counts.values())
    )  # in the order in which the folders were visited
    return Listing(found.images, labels, tuple(map(printable, found.counts)))


def read_list(ann_file: str | Path, root: str | Path, with_label: bool = False) -> Listing:
    """Text file with one path relative to ``root`` per line, in any encoding of ``names.read_lines``.

    With ``with_label`` an integer label follows after a blank or tab; without, labels after image names are
    ignored. A line starting with # that is not an existing file is a comment. Duplicate images count twice, with a warning.

    Raises:
        FileNotFoundError: ``ann_file`` or ``root`` does not exist.
        ValueError: The list is not text or is empty, a required label is missing, or an image has two labels.
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
        print_log(f'{name}: skipped {len(comments)} comments', 'current')
    if not with_label:
        paths = [_without_label(line) for _, line in lines]
        labeled = sum(path != line for path, (_, line) in zip(paths, lines, strict=True))
        if labeled:
            print_log(f'{name}: ignoring the labels of {labeled} lines (with_label=False)', 'current')
        _tell_repeated(name, paths)
        return Listing(ByteStrings.of(map(os.fsencode, paths)))
    named, labels = zip(*(_labeled(name, number, line) for number, line in lines), strict=True)
    if len(set(named)) < len(named):
        _check_same_labels(name, named, labels)
        _tell_repeated(name, named)
    classes = tuple(str(label) for label in range(max(labels) + 1))
    return Listing(ByteStrings.of(map(os.fsencode, named)), np.array(labels), classes)


def _is_image_line(line: str, root: str | Path) -> bool:
    """Whether a line that looks like a comment is an existing file, with or without a label."""
    names = (line, line.rsplit(maxsplit=1)[0])
    return any(os.path.lexists(os.path.join(root, name)) for name in names)


def _without_label(line: str) -> str:
    """A line without its last column if that is a number and the rest is an image name."""
    path, label = _split(line)
    return path if label.isdecimal() and path.lower().endswith(EXTENSIONS) else line


def _labeled(name: str, number: int, line: str) -> tuple[str, int]:
    path, label = _split(line)
    if not (path and label.isascii() and label.isdecimal()):
        raise ValueError(f'{name}, line {number}: expected "path label", got {line!r}')
    if len(label) > len(str(MAX_CLASSES)) or int(label) >= MAX_CLASSES:
        raise ValueError(f'{name}, line {number}: invalid label {label}: classes are numbered from 0, without gaps')
    return path, int(label)


def _split(line: str) -> tuple[str, str]:
    """Path and last column of a line; ``('', line)`` if there is only one column."""
    cut = max(line.rfind(' '), line.rfind('\t'))
    return line[: max(cut, 0)].rstrip(' \t'), line[cut + 1 :]


def _check_same_labels(name: str, paths: Sequence[str], labels: Sequence[int]) -> None:
    known: dict[str, int] = {}
    for path, label in zip(paths, labels, strict=True):
        if known.setdefault(path, label) != label:
            raise ValueError(f'{name}: {printable(path)} has labels {known[path]} and {label}: remove one')


def _tell_repeated(name: str, paths: Sequence[str]) -> None:
    if len(set(paths)) == len(paths):
        return
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if repeated:
        message = f'{name}: {len(repeated)} images are listed, and used, more than once ({printable(repeated[0])})'
        print_log(message, 'current', logging.WARNING)


def existing_folder(root: str | Path) -> Path:
    """The folder as a path; raises FileNotFoundError with the setting to change."""
    root = Path(root)
    if not root.is_dir():
        kind = 'is a file, not a folder' if root.exists() else 'does not exist'
        raise FileNotFoundError(f'data_root {printable(root)} {kind}; set data_root of the dataset in the config')
    return root
