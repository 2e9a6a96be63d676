"""Listing of generated folders on a memory file system: ``rows`` for 0.1, 1.28 and 10 million images.

The old form made a string of every path, by ``os.path.join``, asked every entry for its kind several times, and took the
class of each image off its path; it is kept here. Ten million are one tree, entered by several links.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import numpy as np
from common import Row

from mmadclr.datasets.readers import read_class_folders
from mmadclr.datasets.sources import FileSource
from mmadclr.datasets.walking import EXTENSIONS
from mmadclr.names import is_hidden

MEMORY = Path('/dev/shm')
FILES = 1000  # in a folder
SIZES = (100_000, 1_280_000, 10_240_000)
LINKS = 8  # to the tree of the second size, for the third
CHILD = """
import re, sys, time
from mmadclr.datasets.readers import read_class_folders
from mmadclr.datasets.sources import FileSource
def megabytes(kind):
    return int(re.search(kind + r':\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024
before, start = megabytes('VmRSS'), time.process_time()
source = FileSource(sys.argv[1], read_class_folders(sys.argv[1]))
print(len(source), time.process_time() - start, megabytes('VmHWM') - before)
"""


def rows(scale: float = 1.0) -> list[Row]:
    """Time against the old form, and time and peak memory of the new one at each size, with the slope between the last."""
    sizes = [max(int(size * scale), FILES) for size in SIZES]
    place = tempfile.mkdtemp(dir=MEMORY if has_room(sizes[0] + sizes[1]) else None)
    try:
        trees = [Path(place, name) for name in ('small', 'middle')]
        for tree, size in zip(trees, sizes, strict=False):
            make_tree(tree, size)
        (Path(place) / 'large').mkdir()
        for number in range(LINKS):
            (Path(place) / 'large' / f'part{number}').symlink_to('../middle')
        found = [measure(tree) for tree in (*trees, Path(place) / 'large')]
        return [old_row(trees[1]), *(row for figures in found for row in size_rows(*figures)), slope_row(found)]
    finally:
        shutil.rmtree(place)


def has_room(files: int) -> bool:
    if not MEMORY.is_dir():
        return False
    room = os.statvfs(MEMORY)
    return room.f_favail > 1.2 * files and room.f_bavail * room.f_frsize > 1024 * files


def make_tree(root: Path, count: int) -> None:
    """``count`` empty files in folders of ``FILES``."""
    for folder in range(count // FILES):
        path = root / f'n{folder:08d}'
        path.mkdir(parents=True)
        handle = os.open(path, os.O_RDONLY)
        for number in range(FILES):
            os.close(os.open(f'n{folder:08d}_{number}.JPEG', os.O_CREAT | os.O_WRONLY, dir_fd=handle))
        os.close(handle)


def measure(root: Path) -> tuple[int, float, float]:
    """Images, seconds of processor time, and megabytes at the peak, in a process of its own."""
    done = subprocess.run([sys.executable, '-c', CHILD, str(root)], capture_output=True, text=True, check=True)
    count, seconds, peak = done.stdout.split()[-3:]
    return int(count), float(seconds), float(peak)


def size_rows(count: int, seconds: float, peak: float) -> list[Row]:
    label = f'listing of {count:,} images'
    large = count > 5_000_000
    return [
        Row(label, 's', seconds, target='<= 20' if large else '<= 2.6' if count > 1_000_000 else ''),
        Row(f'{label}, peak', 'MB', peak, target='<= 1,000' if large else ''),
    ]


def slope_row(found: list[tuple[int, float, float]]) -> Row:
    """Exponent of time against images, by the two larger sizes: 1 is linear."""
    (few, short, _), (many, long, _) = found[1:]
    slope = float(np.log(long / short) / np.log(many / few))
    return Row('listing: exponent of time against images', '', slope, target='<= 1.1')


def old_row(root: Path) -> Row:
    def ours() -> object:
        return FileSource(root, read_class_folders(root))

    return common.timed_row(f'listing of {len(ours()):,} images', ours, lambda: old_listing(str(root)), 3, target='>= 5 x')


def old_listing(root: str) -> tuple[np.ndarray, np.ndarray]:
    """Names as an array as wide as the longest, and labels."""
    paths, left = [], ['']
    while left:
        folder = left.pop()
        left += [os.path.join(folder, name) for name in reversed(_old_folder(root, folder, paths))]
    index = {name: label for label, name in enumerate(sorted({path.split(os.sep, 1)[0] for path in paths}))}
    labels = [index[path.split(os.sep, 1)[0]] for path in paths]
    return np.array([os.fsencode(path) for path in paths]), np.array(labels)


def _old_folder(root: str, folder: str, paths: list[str]) -> list[str]:
    enter = []
    with os.scandir(os.path.join(root, folder)) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if is_hidden(entry.name) or (entry.is_symlink() and not os.path.exists(entry.path)):
            continue
        if entry.is_dir():
            enter.append(entry.name)
        elif entry.is_file() and os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            paths.append(path)
    return enter
