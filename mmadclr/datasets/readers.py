"""Finding images: a folder, a folder of class folders, or a text list. Each reader returns sorted, relative paths."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.gif')


class Listing(NamedTuple):
    """Image paths relative to a root, and where known their labels and the names of the classes."""

    paths: list[str]
    labels: list[int] | None = None
    classes: tuple[str, ...] = ()


def read_folder(root: str | Path) -> Listing:
    """Every image below ``root``, at any depth.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: There is no image below it.
    """
    root = existing_folder(root)
    paths, others = [], Counter()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders.sort()
        for name in sorted(names):
            extension = os.path.splitext(name)[1].lower()
            if extension in EXTENSIONS:
                paths.append(os.path.relpath(os.path.join(folder, name), root))
            else:
                others[extension or name] += 1
    if others:
        kinds = ', '.join(f'{count} x {kind}' for kind, count in others.most_common(5))
        print_log(f'{root}: left out {others.total()} files that are no images by their name ({kinds})', 'current')
    if not paths:
        raise ValueError(f'no image below {root}: looked for names ending in {", ".join(EXTENSIONS)}')
    return Listing(paths)


def read_class_folders(root: str | Path) -> Listing:
    """Images below ``root`` labelled by its direct subfolders, in alphabetical order (the layout of ImageNet).

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: There is no image below it, or one lies outside every class folder.
    """
    paths = read_folder(root).paths
    loose = next((path for path in paths if os.sep not in path), None)
    if loose is not None:
        raise ValueError(f'{root}: labels are read off class folders, but {loose} lies in none; drop with_label or move it')
    classes = tuple(sorted({path.split(os.sep, 1)[0] for path in paths}))
    index = {name: label for label, name in enumerate(classes)}
    return Listing(paths, [index[path.split(os.sep, 1)[0]] for path in paths], classes)


def read_list(ann_file: str | Path, root: str | Path, with_label: bool = False) -> Listing:
    """A text file with one path relative to ``root`` a line, followed by an integer label if ``with_label``.

    Raises:
        FileNotFoundError: ``ann_file`` or ``root`` does not exist.
        ValueError: The list is empty, or a line has no label where one is wanted.
    """
    existing_folder(root)
    if not Path(ann_file).is_file():
        raise FileNotFoundError(f'list of images {ann_file} does not exist')
    lines = Path(ann_file).read_text(encoding='utf-8').splitlines()
    paths, labels = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(' ') if with_label else (line.strip(), '', '')
        if with_label and not (path and label.isdigit()):
            raise ValueError(f'{ann_file}, line {number}: expected "path label", got {line!r}')
        paths.append(path.strip())
        labels.append(int(label) if with_label else 0)
    if not paths:
        raise ValueError(f'list of images {ann_file} is empty')
    if not with_label:
        return Listing(paths)
    return Listing(paths, labels, tuple(str(label) for label in range(max(labels) + 1)))


def existing_folder(root: str | Path) -> Path:
    """The folder as a path, or FileNotFoundError that says what to set."""
    root = Path(root)
    if not root.is_dir():
        kind = 'is a file, not a folder' if root.exists() else 'does not exist'
        raise FileNotFoundError(f'data_root {root} {kind}; set data_root of the dataset in the config')
    return root
